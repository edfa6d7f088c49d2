"""Evaluation of a bundle on labelled files, including whether its members were chosen on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from ensemble.bundle.format import Contents
from ensemble.inference.describe import as_html, as_text
from mlflow_setup.errors import DataError
from trainable.config.tasks import Split, Task
from trainable.data.defects import describe
from trainable.data.examples import Examples
from trainable.data.readers import read_split
from trainable.evaluation.metrics import overall, task_metric, why_undefined

TimedOutputs = Callable[
    [Mapping[str, tuple[tuple[str, ...], ...]]], tuple[dict[str, NDArray[Any]], float]
]
"""`Ensemble.timed_outputs`: from task -> a tuple of N sentences for each sentence column, to
task -> outputs [N, C] or [N], and the seconds per 1,000 sentences."""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The scores of a bundle on the labelled files of one split."""

    split: Split
    scores: dict[str, float]  # task -> its metric
    overall: float
    num_rows: dict[str, int]  # task -> rows scored
    num_skipped: dict[str, int]  # task -> rows with defects, which were skipped
    undefined: dict[str, str]  # task -> why its metric is undefined and counts as 0
    unscored: dict[str, str]  # task -> why it was not scored
    metrics: dict[str, str]  # task -> name of its metric
    is_dev: dict[str, bool | None]
    """Task -> whether its examples are those that the members were chosen on, by their fingerprint;
    None: the bundle does not record it."""
    seconds_per_1000: dict[str, float] = field(compare=False)
    """Task -> seconds per 1,000 sentences, from text to outputs, with the given device, precision
    and batch size, without loading the members."""

    def table(self) -> pd.DataFrame:
        """Return a row for each task that was scored, then `overall`."""
        rows = {
            name: {
                "metric": self.metrics[name],
                "score": score,
                "rows": self.num_rows[name],
                "seconds_per_1000": self.seconds_per_1000[name],
            }
            for name, score in self.scores.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")
        table.loc["overall", ["score", "rows"]] = [self.overall, sum(self.num_rows.values())]
        return table.astype({"rows": int})

    def __repr__(self) -> str:
        return as_text(f"Scores on {self.split}", self.table())

    def _repr_html_(self) -> str:
        return as_html(f"Scores on {self.split}", self.table())


def evaluate(
    contents: Contents,
    timed_outputs: TimedOutputs,
    data_dir: Path,
    split: Split,
    skip_bad_rows: bool,
) -> Evaluation:
    """Score the outputs for the labelled files: the implementation of `Ensemble.evaluate`."""
    tasks = {name: entry.task for name, entry in contents.tasks.items()}
    scores, num_rows, num_skipped = {}, {}, {}
    undefined: dict[str, str] = {}
    unscored: dict[str, str] = {}
    seconds: dict[str, float] = {}
    is_dev: dict[str, bool | None] = {}
    for name, task in tasks.items():
        if split not in task.files or not (data_dir / task.files[split]).exists():
            unscored[name] = f"{task.files.get(split, f'a {split} file')} does not exist"
            continue
        examples, num_bad = _examples(name, task, split, data_dir, skip_bad_rows)
        if examples.labels is None or not len(examples):
            unscored[name] = f"{task.files[split]} has no labelled rows"
            continue
        outputs, seconds[name] = timed_outputs({name: examples.sentences})
        scores[name], is_defined = task_metric(task, outputs[name], examples.labels)
        num_rows[name], num_skipped[name] = len(examples), num_bad
        dev = contents.tasks[name].dev_fingerprint
        is_dev[name] = None if dev is None else examples.fingerprint == dev
        if not is_defined:
            undefined[name] = why_undefined(examples.labels)
    if not scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unscored.items())
        raise DataError(f"{data_dir}: nothing to score: {reasons}")
    total, counts = overall(scores, tasks), (num_rows, num_skipped)
    metrics = {name: str(tasks[name].metric) for name in scores}
    return Evaluation(split, scores, total, *counts, undefined, unscored, metrics, is_dev, seconds)


def _examples(
    name: str, task: Task, split: Split, data_dir: Path, skip_bad_rows: bool
) -> tuple[Examples, int]:
    """Return the examples without defects, and the number of rows with defects."""
    examples, defects = read_split(name, task, split, data_dir)
    errors = [defect for defect in defects if defect.severity == "error"]
    fatal = [defect for defect in errors if not defect.is_of_row]
    if fatal or (errors and not skip_bad_rows):
        shown = fatal or errors
        raise DataError(
            f"{data_dir}: {len(shown)} error(s) in the data:\n  {describe(shown)}",
            fix=None if fatal else "correct the rows, or skip them: --on-bad-rows skip",
        )
    return examples, len({defect.line for defect in errors})
