"""What an import is asked about its file: is the first line a header, are labels what they seem?"""

import math
import shlex
from collections import defaultdict
from collections.abc import Sequence

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import printable
from trainable.config.tasks import Split
from trainable.data.labels import number_of
from trainable.data.tables import cell_text
from trainable.imports.finding import TableLayout
from trainable.imports.sources import Source


def check_header(train: Source, layout: TableLayout) -> None:
    """A file without a header would lose its first row, whose cells would be the columns.

    Raises:
        ConfigError: the first line is probably such a row.
    """
    name = layout.label
    if name is None or (name not in layout.labels and math.isnan(number_of(name))):
        return
    texts = ["text"] if len(layout.sentences) == 1 else ["text1", "text2"]
    usual = {name: "label", **dict(zip(layout.sentences, texts, strict=True))}
    columns = [usual.get(each, f"column{n}") for n, each in enumerate(train.columns, 1)]
    raise ConfigError(
        f"{train.name}: the first line looks like a row, not like the names of the columns: "
        f"{printable(name)} is a label",
        fix=f"name them: --columns {','.join(columns)}; or, if they are names: --label "
        f"{shlex.quote(name)}",
    )


def check_columns(source: Source, train: Source, layout: TableLayout) -> None:
    """Another split has the columns of train; of test the labels may be missing.

    Raises:
        ConfigError: it lacks one.
    """
    needed = [
        *layout.sentences,
        *([layout.label] if layout.label and source.split != "test" else []),
    ]
    for name in needed:
        if name not in source.columns:
            raise ConfigError(
                f"{source.name}: no column {name!r}, which {train.name} has; there are: "
                f"{printable(', '.join(source.columns))}",
                fix="name the columns of all splits alike",
            )


def alike(labels: Sequence[str]) -> str:
    """`Good and good`, of labels that are probably the same."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_name[" ".join(label.casefold().split())].append(label)
    return "; ".join(" and ".join(same) for same in by_name.values() if len(same) > 1)


def place_of(sources: Sequence[Source], layout: TableLayout, split: Split, id_: str) -> str:
    """`dev.csv:5` of the row that has the id; where rows are numbered, through all the sources."""
    before = 0
    for source in sources:
        for number, (row, place) in enumerate(zip(source.rows, source.places, strict=True), 1):
            own = cell_text(row.get(layout.id), "") if layout.id else str(before + number)
            if own.strip() == id_ and source.split in (split, "train"):
                return place
        before += len(source.rows)
    return f"{split} row {printable(id_)}"


def fix_of(layout: TableLayout, label: str) -> str:
    """What to do about a label that is none of the task's."""
    correct = "correct the row"
    names = [*layout.labels, label]
    if layout.labels and not any(set(name) & set(",'\"") for name in names):
        return f"{correct}, or if it is a label too: --labels {shlex.quote(','.join(names))}"
    return f"{correct}, or name the labels or the kind: --labels, --kind"
