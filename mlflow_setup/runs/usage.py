"""Time, GPU time and money of trials, summed over every attempt, lost work included."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from mlflow_setup.schema import AttemptRecord

SYSTEM = "system/"
"""Before the metrics that MLflow shows on a page of their own: what a process takes."""
USAGE = "used/"
"""Before the metrics of what was used: hours, GPU-hours, USD."""


class SystemSample(NamedTuple):
    """What a trial's process took of its machine at a time."""

    wall_time: float  # seconds since the Unix epoch
    values: dict[str, float]  # metric -> finite


@dataclass(frozen=True)
class Usage:
    """The resources of one trial or of a whole sweep."""

    trial_hours: float = 0.0
    gpu_hours: float = 0.0
    usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.trial_hours + other.trial_hours,
            self.gpu_hours + other.gpu_hours,
            self.usd + other.usd,
        )

    def describe(self) -> str:
        """`1.25 trial-hours, 1.25 GPU-hours, 0.63 USD`; what is nothing is left out."""
        parts = [f"{self.trial_hours:.2f} trial-hours"]
        if self.gpu_hours:
            parts.append(f"{self.gpu_hours:.2f} GPU-hours")
        if self.usd:
            parts.append(f"{self.usd:.2f} USD")
        return ", ".join(parts)


def goes_on_after(attempts: Iterable[AttemptRecord], wall_time: float) -> bool:
    """Whether a process counted on for more than a second after its trial had ended, as one that
    is stopped by the scheduler does until it has left."""
    return any(each.start_time + each.seconds > wall_time + 1 for each in attempts)


def usage_of(attempts: Iterable[AttemptRecord]) -> Usage:
    """The sum over attempts."""
    used = Usage()
    for attempt in attempts:
        hours = attempt.seconds / 3600
        used += Usage(hours, hours * attempt.num_gpus, hours * attempt.usd_per_hour)
    return used
