"""The interface of a served bundle: input and output columns, their types, and an example row."""

from collections.abc import Mapping

import pandas as pd

from mlflow_setup.models.registry import Interface
from trainable.config.tasks import Output, Task

MAX_CHARACTERS = 10_000
"""Maximum length of a sentence in a request."""
_EXAMPLE = ("a warm and funny film", "a film that is funny and warm")


def interface(tasks: Mapping[str, Task]) -> Interface:
    """Return the input and output columns of all tasks, and an example row of the first task."""
    columns = dict.fromkeys(name for task in tasks.values() for name in task.columns.sentences)
    types = {type(task.show(0.0)) for task in tasks.values()}
    outputs = {"label": "string" if str in types else "double" if float in types else "long"}
    for task in tasks.values():
        if task.kind.output.has_columns:
            outputs |= {f"probability_{name}": "double" for name in task.label_names}
        elif task.kind.output is Output.BINARY:
            outputs["probability"] = "double"
    name, first = next(iter(tasks.items()))
    rows = tuple(
        {str(column): str(sentence) for column, sentence in row.items()}
        for row in example_of(first).to_dict("records")
    )
    return Interface(tuple(columns), outputs, name, rows)


def example_of(task: Task) -> pd.DataFrame:
    """Return an example row with the task's sentence columns."""
    names = task.columns.sentences
    return pd.DataFrame([dict(zip(names, _EXAMPLE, strict=False))])
