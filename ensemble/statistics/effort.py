"""How many folds, rounds and replicates are used to choose an ensemble: more are more precise and
take longer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Numbers of repetitions. All are at least 1, `num_folds` at least 2."""

    num_folds: int = 5
    """Folds of the cross-validation that compares rules."""
    num_repeats: int = 1
    """Repetitions of that cross-validation, each with different folds."""
    num_rounds: int = 50
    """Rounds of greedy selection; each adds one candidate, with replacement."""
    num_bags: int = 20
    """Bags of the rule `bagged`."""
    bag_rounds: int = 20
    """Rounds of greedy selection in each bag."""
    num_replicates: int = 2000
    """Bootstrap replicates for the 95 % interval of a gain."""
    curve_replicates: int = 400
    """Bootstrap replicates for each point of a gain curve, which is plotted rather than tested."""


SHIPPED = Effort()
"""The default."""
