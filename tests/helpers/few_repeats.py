"""Choosing an ensemble repeats itself for precision, which most tests have no use for."""

from functools import partial

import pytest

from ensemble import bootstrap, curve, inner, rules
from ensemble.selection import greedy


def choose_quickly(patch: pytest.MonkeyPatch) -> None:
    """Fewer folds, bags, rounds and replicates, until the patch is undone."""
    patch.setattr(inner, "NUM_REPEATS", 1)
    patch.setattr(inner, "NUM_FOLDS", 3)
    patch.setattr(rules, "NUM_BAGS", 2)
    patch.setattr(rules, "BAG_ROUNDS", 4)
    patch.setattr(rules, "greedy", partial(greedy, num_rounds=8))
    patch.setattr(bootstrap, "NUM_REPLICATES", 300)
    patch.setattr(curve, "NUM_REPLICATES", 60)
