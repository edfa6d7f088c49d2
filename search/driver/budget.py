"""The budget of a sweep: hours of its driver, GPU-hours and cost of its trials."""

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
    """Checks whether a budget is used up. Reads the folder every `CHECK_SECONDS` at most."""

    def __init__(self, folder: SweepFolder, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        self._started = self._checked = time.monotonic()
        self._ended: dict[Path, Usage] = {}  # folders whose usage is final: they are read once

    def problem(self) -> str | None:
        """Return which limit is reached, or None."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return None
        self._checked, limits = now, self.budget
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
        """Request a stop if the budget is used up. Return whether a stop has been requested."""
        problem = self.problem()
        if problem is not None:
            switch.request(problem)
        return switch.is_on

    def _total(self) -> Usage:
        total = Usage()
        for path in _counted(self.folder):
            total += self._ended.get(path) or self._usage(path)
        return total

    def _usage(self, path: Path) -> Usage:
        """Return the usage of a folder, and remember it if it is final."""
        trial = TrialFolder(path)
        with suppress(StorageError):
            trial.refresh()
        ended, attempts = trial.outcome(), trial.attempts()
        used = usage_of(attempts)
        if ended and ended.outcome.is_terminal and all(one.is_over for one in attempts):
            self._ended[path] = used
        return used


def sweep_usage(folder: SweepFolder) -> Usage:
    """Return the usage of all attempts at the sweep's trials and at their shared artifacts."""
    return sum((usage_of(TrialFolder(path).attempts()) for path in _counted(folder)), Usage())


def _counted(folder: SweepFolder) -> Iterator[Path]:
    """Yield the folders that have attempts."""
    for parent in (folder.path / TRIALS, folder.path / PREPARATION):
        names = folder.storage.names(parent)
        yield from (parent / name for name in names if not name.startswith("."))
