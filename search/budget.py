"""When a sweep has used enough: hours of its driver, GPU-hours and money of its trials."""

import time

from mlflow_setup.usage import Usage, usage_of
from search.history import SweepFolder
from search.sweep_config import Budget

CHECK_SECONDS = 5.0


class Meter:
    """Says when a budget is used up. Looks at the folder every few seconds at most."""

    def __init__(self, folder: SweepFolder, budget: Budget) -> None:
        self.folder, self.budget = folder, budget
        self._started = self._looked = time.monotonic()

    def problem(self) -> str | None:
        """What is used up, or None."""
        now = time.monotonic()
        if now - self._looked < CHECK_SECONDS:
            return None
        self._looked, limits = now, self.budget
        used = {"max_hours": (now - self._started) / 3600}
        if limits.max_gpu_hours is not None or limits.max_usd is not None:
            total = sweep_usage(self.folder)
            used |= {"max_gpu_hours": total.gpu_hours, "max_usd": total.usd}
        for key, value in used.items():
            limit = getattr(limits, key)
            if limit is not None and value >= limit:
                return f"budget.{key}={limit:g} is used up"
        return None


def sweep_usage(folder: SweepFolder) -> Usage:
    """What every attempt at every trial of the sweep used."""
    return sum((usage_of(trial.attempts()) for trial in folder.trial_folders()), Usage())
