"""How often choosing an ensemble repeats itself: more is more precise, and takes longer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Numbers of repeats. The defaults are what users get, unless they pass another; all are at
    least 1, but for the folds, at least 2."""

    num_folds: int = 5
    """Of the repeated cross-fitting that compares rules."""
    num_repeats: int = 1
    """Of those folds, each time other ones."""
    num_rounds: int = 50
    """Candidates that greedy selection adds, some of them again and again."""
    num_bags: int = 20
    """Of the rule `bagged`."""
    bag_rounds: int = 20
    """Candidates that greedy selection adds in each bag."""
    num_replicates: int = 2000
    """Of the bootstrap of a gain: resampled dev rows, for a 95 % interval."""
    curve_replicates: int = 400
    """The same for each point of a curve of gains, which is looked at rather than tested."""


SHIPPED = Effort()
"""What users get."""
