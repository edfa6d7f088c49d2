"""Sweep folders written directly, for tests of the code that reads them."""

import time
from pathlib import Path
from typing import Any

import yaml

from mlflow_setup.schema import Decision, EpochRecord, Outcome, OutcomeRecord, TrialRecord
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config

SPACE = {
    "optim.lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "loss.mnr.enabled": {"type": "categorical", "choices": [True, False]},
    "loss.mnr.weight": {"type": "float", "low": 0.1, "high": 9, "when": {"loss.mnr.enabled": True}},
}


def sweep_of(folder: Path, **changes: Any) -> SweepConfig:
    path = folder / "mine.yaml"
    content = {
        "recipe": "b3",
        "config": {"train.num_epochs": 4},
        "space": SPACE,
        "first_trials": ["b2"],
        **changes,
        "search": {"num_samples": 6, "baselines": False, **changes.get("search", {})},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_sweep(str(path), (), {})


class Past:
    """A sweep folder whose trials the test writes."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = SweepFolder(folder, "s")
        self.folder.create(sweep_of(folder, **changes))

    def trial(
        self,
        name: str,
        values: tuple[float, ...],
        outcome: Outcome | None,
        words: tuple[str, ...] | None = None,
        **searched: Any,
    ) -> None:
        folder = self.folder.trial(name)
        settings = {**Config().flat(), "train.num_epochs": 4, "loss.mnr.enabled": False, **searched}
        record = TrialRecord(
            name, "s", "b3", settings, {}, 0, "data", None, time.time(), tuple(searched)
        )
        folder.create(record)
        for epoch, value in enumerate(values, start=1):
            folder.write_epoch(EpochRecord(epoch, {"dev/overall": value}, {}, 1.0, time.time()))
        for epoch, action in enumerate(words or ("continue",) * len(values), start=1):
            word = action.partition(";")[0]
            folder.write_decision(Decision(epoch, word, f"why {action}"))
        if outcome is not None:
            folder.write_outcome(OutcomeRecord(outcome, "", len(values), time.time()))

    def history(self) -> list[PastTrial]:
        return read_history(self.folder.trial_folders())
