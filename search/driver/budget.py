"""When a sweep has used enough: hours of its driver, GPU-hours and money of its trials."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlflow_setup.errors import StorageError
from mlflow_setup.runs.usage import Usage, usage_of
from search.config.sweep_config import Budget
from search.driver.stop_switch import StopSwitch
from search.storage.sweep_folder import SweepFolder
from trainable.storage.layout import PREPARATION, TRIALS
from trainable.storage.trial_folder import TrialFolder

CHECK_SECONDS = 5.0


class Meter:
    """Says when a budget is used up. Looks at the folder every few seconds at most."""

    def __init__(self, folder: SweepFolder, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        self._started = self._looked = time.monotonic()
        self._over: dict[Path, Usage] = {}  # folders that use nothing more: they are read once

    def problem(self) -> str | None:
        """What is used up, or None."""
        now = time.monotonic()
        if now - self._looked < CHECK_SECONDS:
            return None
        self._looked, limits = now, self.budget
        used = {"max_hours": (now - self._started) / 3600}
        if limits.max_gpu_hours is not None or limits.max_usd is not None:
            total = self._total()
            used |= {"max_gpu_hours": total.gpu_hours, "max_usd": total.usd}
        for key, value in used.items():
            limit = getattr(limits, key)
            if limit is not None and value >= limit:
                return f"budget.{key}={limit:g} is used up"
        return None

    def enforce(self, switch: StopSwitch) -> bool:
        """Ask for a stop once the budget is used up; whether one is asked for."""
        problem = self.problem()
        if problem is not None:
            switch.ask(problem)
        return switch.is_on

    def _total(self) -> Usage:
        total = Usage()
        for path in _counted(self.folder):
            total += self._over.get(path) or self._look(path)
        return total

    def _look(self, path: Path) -> Usage:
        """What is over is looked at once."""
        trial = TrialFolder(path)
        with suppress(StorageError):
            trial.refresh()
        ended, attempts = trial.outcome(), trial.attempts()
        used = usage_of(attempts)
        if ended and ended.outcome.is_terminal and all(one.is_over for one in attempts):
            self._over[path] = used
        return used


def sweep_usage(folder: SweepFolder) -> Usage:
    """What every attempt at every trial of the sweep used, and at what they share."""
    return sum((usage_of(TrialFolder(path).attempts()) for path in _counted(folder)), Usage())


def _counted(folder: SweepFolder) -> Iterator[Path]:
    """Folders with attempts."""
    for parent in (folder.path / TRIALS, folder.path / PREPARATION):
        names = folder.storage.names(parent)
        yield from (parent / name for name in names if not name.startswith("."))
