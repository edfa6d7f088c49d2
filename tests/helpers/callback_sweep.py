"""A sweep's callback with fake trials, a fake mirror and a fake searcher."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from mlflow_setup.schema import EpochRecord, OutcomeRecord, TrialRecord
from search.algorithms.rungs import SuccessiveHalving
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.sweep_config import Budget
from search.driver.budget import Meter
from search.driver.callback import SweepCallback
from search.driver.progress import Progress
from search.driver.stop_switch import StopSwitch
from search.storage.sweep_folder import SweepFolder
from trainable.storage.trial_folder import TrialFolder


@dataclass
class FakeTrial:
    """A trial as Tune passes it to the driver."""

    name: str
    error_file: str | None = None
    last_result: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        settings = {"optim.lr": 1e-4, "train.num_epochs": 4}
        searched = ["optim.lr"]
        given = {"settings": settings, "origin": {}, "searched": searched, "recipe": "b3"}
        return {"trial": self.name, **given}


@dataclass
class FakeMirror:
    """Records which trials were projected."""

    marked: list[str] = field(default_factory=list)

    def mark(self, trial: str) -> None:
        self.marked.append(trial)


@dataclass
class FakeSearcher:
    """Records which trials were to be retried, and which were given up."""

    retried: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    num_left: int = 5

    retried_alone: list[str] = field(default_factory=list)

    pauses: list[float] = field(default_factory=list)

    def retry(self, name: str, *, after_seconds: float, exclusive: bool = False) -> None:
        (self.retried_alone if exclusive else self.retried).append(name)
        self.pauses.append(after_seconds)

    def fail(self, name: str) -> None:
        self.given_up.append(name)


class Sweep:
    """A driver with its scheduler, and trials whose records the test writes."""

    def __init__(
        self,
        storage: Path,
        keep_pruned_top: int = 1,
        sync_later: Callable[[Path], None] | None = None,
    ) -> None:
        self.sweep_folder = SweepFolder(storage, "s")
        self.mirror, self.searcher = FakeMirror(), FakeSearcher()
        self.scheduler = TuneScheduler(SuccessiveHalving(1, 2))
        self.switch = StopSwitch(self.sweep_folder.stop_file, lambda line: None)
        self.text = io.StringIO()
        self.progress = Progress(Console(file=self.text, width=200), 10, 1)
        self.callback = SweepCallback(
            self.sweep_folder,
            self.mirror,  # type: ignore[arg-type]
            self.scheduler,
            self.progress,
            self.switch,
            Meter(self.sweep_folder, Budget()),
            self.searcher,  # type: ignore[arg-type]
            keep_pruned_top,
            max_failures=1,
            sync_later=sync_later,
        )

    def start(self, name: str) -> FakeTrial:
        trial = FakeTrial(name)
        record = TrialRecord(name, "s", "b3", {"seed": 0}, {}, 0, "data", None, time.time())
        self.folder(name).create(record)
        self.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type,list-item]
        return trial

    def epoch(self, trial: FakeTrial, epoch: int, overall: float, sentiment: float = 0.1) -> str:
        """Write and report an epoch as the trial's process does; the scheduler's decision."""
        folder = self.folder(trial.name)
        metrics = {"dev/overall": overall, "dev/sentiment/accuracy": sentiment}
        metrics["train/sentiment/loss"] = 9.0
        folder.write_epoch(EpochRecord(epoch, metrics, {}, 1.0, time.time()))
        if epoch not in folder.kept_epochs():
            folder.keep_weights(epoch, lambda path: None)
        lengths = {"num_epochs": 4, "num_probe_epochs": 0}
        result = {"epoch": epoch, **lengths, "diverged": 0, "problem": ""}
        result |= {"overall": overall, "best_overall": overall}  # type: ignore[dict-item]
        word = self.scheduler.on_trial_result(None, trial, result)
        self.callback.on_trial_result(0, [], trial, result)  # type: ignore[arg-type]
        return word

    def end(self, trial: FakeTrial) -> OutcomeRecord:
        self.callback.on_trial_complete(0, [], trial)  # type: ignore[arg-type]
        outcome = self.folder(trial.name).outcome()
        assert outcome is not None
        return outcome

    def folder(self, name: str) -> TrialFolder:
        return self.sweep_folder.trial(name)
