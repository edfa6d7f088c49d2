"""The model card of a bundle: real figures, who answers for which task, and the caveats."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ensemble.bundle import Contents
from ensemble.choice import EnsembleChoice, Method, Scores, TaskChoice
from trainable.tasks import Task

TEMPLATE = Path(__file__).parent / "card.md.jinja"


def model_card(sweep: str, contents: Contents, choice: EnsembleChoice) -> str:
    """Markdown with the hub's metadata block in front."""
    title = f"Selective ensemble of {sweep}"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        sweep=sweep,
        contents=contents,
        rows=[_row(name, task) for name, task in choice.tasks.items()],
        overall=_cells(choice.overall),
        num_encoders={method.value: len(choice.candidates(method)) for method in Method},
        encoders={name: _encoder(member.config) for name, member in contents.members.items()},
        example=_example(next(iter(contents.tasks.values())).task),
        notes=[f"{name}: {task.note}" for name, task in choice.tasks.items() if task.note],
    )
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=name,
            dataset_type=name,
            dataset_name=f"{name} dev, cross-fitted",
            metric_type=task.metric,
            metric_value=round(task.selective.scores.judged, 4),
        )
        for name, task in choice.tasks.items()
        if math.isfinite(task.selective.scores.judged)
    ]
    data = ModelCardData(model_name=title, library_name="ensweep", eval_results=results or None)
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _row(name: str, task: TaskChoice) -> dict[str, Any]:
    return {
        "task": name,
        "metric": task.metric,
        "num_rows": task.num_rows,
        **_cells({method: chosen.scores for method, chosen in task.methods.items()}),
    }


def _cells(scores: Mapping[Method, Scores]) -> dict[str, str]:
    judged = {method.value: f"{found.judged:.4f}" for method, found in scores.items()}
    return {**judged, "in_sample": f"{scores[Method.SELECTIVE].in_sample:.4f}"}


def _example(task: Task) -> str:
    return '[("a sentence", "and another")]' if task.kind.is_pair else '["a sentence"]'


def _encoder(config: Mapping[str, Any]) -> str:
    """The encoder's name; of a folder its last part, fit for a cell of a table."""
    name = str(config["model.encoder"])
    shown = Path(name).name if Path(name).is_absolute() else name
    return "".join(c if c.isalnum() or c in "._-/ " else "?" for c in shown)
