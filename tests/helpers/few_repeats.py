"""Choosing an ensemble repeats itself for precision, which most tests have no use for."""

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from ensemble.choice import gain_curve as curve
from ensemble.selection import rule_selection as inner
from ensemble.selection import rules
from ensemble.selection.greedy import greedy
from ensemble.statistics import bootstrap

_QUICK: Mapping[tuple[ModuleType, str], Any] = {
    (inner, "NUM_REPEATS"): 1,
    (inner, "NUM_FOLDS"): 3,
    (rules, "NUM_BAGS"): 2,
    (rules, "BAG_ROUNDS"): 4,
    (rules, "greedy"): partial(greedy, num_rounds=8),
    (bootstrap, "NUM_REPLICATES"): 300,
    (curve, "NUM_REPLICATES"): 60,
}
_SHIPPED = {place: getattr(*place) for place in _QUICK}


def choose_quickly(patch: pytest.MonkeyPatch) -> None:
    """Fewer folds, bags, rounds and replicates, until the patch is undone."""
    for (module, name), value in _QUICK.items():
        patch.setattr(module, name, value)


def choose_as_shipped(patch: pytest.MonkeyPatch) -> None:
    """What users get, for tests of just that."""
    for (module, name), value in _SHIPPED.items():
        patch.setattr(module, name, value)
