"""Trials of a study with chosen numbers of correct dev rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_setup.schema import OVERALL, EpochRecord, Outcome, OutcomeRecord, TrialRecord
from search.ablation.compare import Line
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

LABELS = {
    "sentiment": np.array([0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0]),
    "paraphrase": np.array([1.0, 0.0, 1.0, 0.0]),
    "similarity": np.array([0.0, 1.0, 2.0, 3.0, 5.0]),
}


Outputs = Mapping[str, Sequence[float] | NDArray[Any]]


class Trials:
    """Writes finished trials with chosen dev outputs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.labels = dict(LABELS)

    def add(
        self,
        name: str,
        outputs: Outputs,
        seed: int = 0,
        overall: Sequence[float] = (0.5,),
        outcome: Outcome | None = Outcome.FINISHED,
        settings: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        """Write a trial with these outputs at its best epoch, and only wrong ones at the others.

        Args:
            overall: `dev/overall` by epoch.
            settings: settings of its configuration, in addition to tasks and seed.
            changes: changed fields of the prediction files.
        """
        trial = TrialFolder(self.root / name)
        given = {"data.tasks": list(outputs), "seed": seed, **(settings or {})}
        config = from_flat(given).flat()
        trial.create(TrialRecord(name, "s", "b3", config, {}, seed, "whole", None, 0.0))
        best = int(np.argmax(overall)) + 1
        for epoch, score in enumerate(overall, start=1):
            metrics, parts = {OVERALL: score}, []
            for task, values in outputs.items():
                metrics |= {
                    f"train/{task}/loss": 2.0 / epoch + seed,
                    f"dev/{task}/loss": 1.0 / epoch + seed,
                    f"dev/{task}/{PAPER_TASKS[task].metric}": score + seed,
                }
                chosen = values if epoch == best else -self.raw(task, values)
                parts.append(self.predictions(task, chosen, **changes))
            trial.write_predictions(epoch, parts)
            trial.write_epoch(EpochRecord(epoch, metrics, {}, 1.0, 0.0))
        if outcome is not None:
            trial.write_outcome(OutcomeRecord(outcome, "said so", len(overall), 0.0))
        return trial.path

    def predictions(
        self, task: str, values: Sequence[float] | NDArray[Any], **changes: Any
    ) -> Predictions:
        labels = self.labels[task]
        content = Predictions(
            task_name=task,
            kind=PAPER_TASKS[task].kind,
            split="dev",
            ids=tuple(f"{task[:2]}-{row}" for row in range(len(labels))),
            outputs=self.raw(task, values),
            labels=labels,
            data_fingerprint=f"{task}-data",
            tokenizer="tok",
        )
        return replace(content, **changes)

    def raw(self, task: str, values: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
        """Outputs of the head: classes become logits; logits and scores stay unchanged."""
        array = np.asarray(values, np.float32)
        if PAPER_TASKS[task].kind is Kind.CLASSIFICATION and array.ndim == 1:
            return np.eye(5, dtype=np.float32)[array.astype(int)]
        return array


def right(task: str, num_wrong: int = 0) -> NDArray[np.float64]:
    """Outputs (scores, logits or classes) that are correct except on the first `num_wrong` rows."""
    values = LABELS[task].copy()
    if task == "paraphrase":
        values = 2 * values - 1
        values[:num_wrong] *= -1
    elif task == "sentiment":
        values[:num_wrong] = (values[:num_wrong] + 1) % 5
    return values


def usual(sentiment: int = 0, paraphrase: int = 0) -> dict[str, NDArray[np.float64]]:
    """Outputs for all three tasks, given the numbers of wrong rows."""
    counts = {"sentiment": sentiment, "paraphrase": paraphrase, "similarity": 0}
    return {task: right(task, count) for task, count in counts.items()}


def by_label(lines: Sequence[Line], label: str) -> Line:
    return next(line for line in lines if line.label == label)
