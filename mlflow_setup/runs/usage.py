"""Time, GPU time and cost of trials, summed over all attempts, including lost work."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from mlflow_setup.schema import AttemptRecord

SYSTEM = "system/"
"""Prefix of the system metrics, which MLflow shows on a page of their own."""
USAGE = "used/"
"""Prefix of the usage metrics: hours, GPU-hours, USD."""


class SystemSample(NamedTuple):
    """System metrics of a trial's process at one time."""

    wall_time: float  # seconds since the Unix epoch
    values: dict[str, float]  # metric -> finite


@dataclass(frozen=True)
class Usage:
    """The resources that a trial or a whole sweep used."""

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
        """`1.25 trial-hours, 1.25 GPU-hours, 0.63 USD`, without GPU-hours and USD that are 0."""
        parts = [f"{self.trial_hours:.2f} trial-hours"]
        if self.gpu_hours:
            parts.append(f"{self.gpu_hours:.2f} GPU-hours")
        if self.usd:
            parts.append(f"{self.usd:.2f} USD")
        return ", ".join(parts)


def lasted_beyond(attempts: Iterable[AttemptRecord], wall_time: float) -> bool:
    """Whether an attempt lasted more than a second after the trial had ended, as that of a process
    does which the scheduler stops, until it exits."""
    return any(each.start_time + each.seconds > wall_time + 1 for each in attempts)


def usage_of(attempts: Iterable[AttemptRecord]) -> Usage:
    """The sum over attempts."""
    used = Usage()
    for attempt in attempts:
        hours = attempt.seconds / 3600
        used += Usage(hours, hours * attempt.num_gpus, hours * attempt.usd_per_hour)
    return used
