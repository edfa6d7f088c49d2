"""The model card of a bundle: real figures, who answers for which task, and the caveats."""

from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ensemble.bundle import Contents
from ensemble.validation import EnsembleChoice, Method

TEMPLATE = Path(__file__).parent / "card.md.jinja"


def model_card(sweep: str, contents: Contents, choice: EnsembleChoice) -> str:
    """Markdown with the hub's metadata block in front."""
    title = f"Selective ensemble of {sweep}"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        sweep=sweep,
        contents=contents,
        rows=[_row(name, choice) for name in choice.tasks],
        notes=[f"{name}: {task.note}" for name, task in choice.tasks.items() if task.note],
    )
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=name,
            dataset_type=name,
            dataset_name=f"{name} dev, the judged half",
            metric_type=task.metric,
            metric_value=round(task.selective.scores.dev_dev, 4),
        )
        for name, task in choice.tasks.items()
    ]
    data = ModelCardData(model_name=title, library_name="ensweep", eval_results=results)
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _row(name: str, choice: EnsembleChoice) -> dict[str, Any]:
    task = choice.tasks[name]
    scores = {method.value: f"{task.methods[method].scores.dev_dev:.4f}" for method in Method}
    return {
        "task": name,
        "metric": task.metric,
        "num_rows": task.num_dev_dev,
        "in_sample": f"{task.selective.scores.dev_train:.4f}",
        **scores,
    }
