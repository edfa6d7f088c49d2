"""Tracked runs without MLflow: artifacts as files, and records of runs in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.candidates.pool import Pool, load_pool
from mlflow_setup.errors import IntegrityError
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    PREDICTIONS_ARTIFACT,
    Outcome,
    RunRecord,
    TrialRecord,
    prediction_path,
)
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.storage.predictions import Predictions, read_predictions, write_predictions

NUM_ROWS = 60
TASKS = ("sentiment", "paraphrase", "similarity")


@dataclass
class Store:
    """Runs of a sweep `s`; `add` writes the artifacts of a run and adds its record."""

    root: Path
    runs: list[RunRecord] = field(default_factory=list)
    labels: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = {
            "sentiment": rng.integers(0, 5, NUM_ROWS).astype(np.float64),
            "paraphrase": rng.integers(0, 2, NUM_ROWS).astype(np.float64),
            "similarity": rng.uniform(0, 5, NUM_ROWS).round(1),
        }

    def ids(self, task: str) -> tuple[str, ...]:
        return tuple(f"{task[:2]}-{row}" for row in range(NUM_ROWS))

    def outputs(self, task: str, seed: int, noise: float = 1.5) -> NDArray[np.float32]:
        """Outputs of a model that is right on most rows."""
        rng = np.random.default_rng([seed, len(task)])
        labels, kind = self.labels[task], PAPER_TASKS[task].kind
        if kind is Kind.CLASSIFICATION:
            signal = np.eye(5)[labels.astype(int)]
        else:
            signal = 2 * labels - 1 if kind is Kind.PARAPHRASE else labels
        return np.asarray(signal + noise * rng.standard_normal(signal.shape), np.float32)

    def add(
        self,
        trial: str,
        epochs: Mapping[int, Mapping[str, NDArray[np.float32]]],
        *,
        kept: Sequence[int] | None = None,
        outcome: Outcome | None = Outcome.FINISHED,
        tags: Mapping[str, str] | None = None,
        notes: Mapping[str, int] | None = None,
        config: Mapping[str, Any] | None = None,
        recipe: str = "b3",
    ) -> RunRecord:
        """`epochs`: epoch -> task -> outputs. `kept`: those with weights; default: all."""
        run_id = f"run{trial}"
        tasks = next(iter(epochs.values())).keys() if epochs else TASKS
        settings = from_flat({"data.tasks": list(tasks), **(config or {})}).flat()
        record = TrialRecord(
            trial=trial,
            sweep="s",
            recipe=recipe,
            config=settings,
            origin={},
            seed=0,
            data_fingerprint="whole",
            git_revision=None,
            start_time=0.0,
            notes=dict(notes or {}),
        )
        folder = self.root / run_id
        folder.mkdir(parents=True)
        (folder / CONFIG_ARTIFACT).write_text(record.to_json())
        for epoch, by_task in epochs.items():
            parts = [self.predictions(task, outputs) for task, outputs in by_task.items()]
            write_predictions(self.path(trial, epoch), parts)
        kept = list(epochs) if kept is None else kept
        run = RunRecord(
            run_id=run_id,
            trial=trial,
            sweep="s",
            status="FINISHED",
            outcome=outcome,
            params={},
            metrics={},
            tags={
                "kept_epochs": ",".join(map(str, kept)),
                "weights_uri": f"/weights/{trial}",
                **(tags or {}),
            },
        )
        self.runs.append(run)
        return run

    def add_usual(self, trial: str, seed: int, num_epochs: int = 2, **settings: Any) -> RunRecord:
        epochs = {
            epoch: {task: self.outputs(task, 100 * seed + epoch) for task in TASKS}
            for epoch in range(1, num_epochs + 1)
        }
        return self.add(trial, epochs, **settings)

    def predictions(self, task: str, outputs: NDArray[np.float32], **changes: Any) -> Predictions:
        content: dict[str, Any] = {
            "task_name": task,
            "kind": PAPER_TASKS[task].kind,
            "split": "dev",
            "ids": self.ids(task),
            "outputs": outputs,
            "labels": self.labels[task],
            "data_fingerprint": f"{task}-data",
            "tokenizer": "tok",
        }
        return Predictions(**(content | changes))

    def path(self, trial: str, epoch: int) -> Path:
        return self.root / f"run{trial}" / PREDICTIONS_ARTIFACT / prediction_path(epoch)

    def replace(self, trial: str, epoch: int, task: str, predictions: Predictions) -> None:
        """Replace the predictions of a task in an epoch's file, or add them."""
        path = self.path(trial, epoch)
        found = read_predictions(path) if path.exists() else {}
        write_predictions(path, list({**found, task: predictions}.values()))

    def download(self, run_id: str, artifact: str) -> Path:
        path = self.root / run_id / artifact
        if not path.is_file():
            raise IntegrityError(f"run {run_id} has no artifact {artifact}")
        return path

    def pool(self) -> Pool:
        return load_pool(self.runs, self.download)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all tests of a module."""
    return Store(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[[str], Store]:
    """Several stores in one test, by name."""
    return lambda name: Store(tmp_path / name)
