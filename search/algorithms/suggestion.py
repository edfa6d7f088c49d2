"""The trials passed to Tune: name, recipe, settings and where each of them came from."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.config.sweep_config import TrialSettings
from search.storage.history import PastTrial
from trainable.tune.keys import BEST_VALUE, DIVERGED, EPOCH


def past_suggestion(past: PastTrial) -> dict[str, Any]:
    """Return the suggestion of an earlier driver's trial, unchanged."""
    record = past.record
    return {
        "trial": past.name,
        "recipe": record.recipe,
        "settings": dict(record.config),
        "origin": dict(record.origin),
        "searched": list(record.searched),
    }


def suggestion(
    name: str, given: TrialSettings, drawn: Mapping[str, Any], chosen_by: str
) -> dict[str, Any]:
    """Return the suggestion of a new trial: `given` with the searched settings `drawn`."""
    return {
        "trial": name,
        "recipe": given.recipe,
        "settings": {**given.settings, **drawn},
        "origin": {**given.origin, **dict.fromkeys(drawn, chosen_by)},
        "searched": list(drawn),
    }


def first_trial_name(number: int, recipe: str) -> str:
    """The name of first trial `number` (from 0), after its recipe or recipe file: `0002-b2`."""
    return f"{number + 1:04d}-{re.sub(r'[^A-Za-z0-9._-]', '-', Path(recipe).stem)}"


def is_usable(result: dict[str, Any]) -> bool:
    """Whether a result has a finite value after at least one epoch, of a trial not diverged."""
    value = result.get(BEST_VALUE)
    return (
        value is not None
        and math.isfinite(value)
        and not result.get(DIVERGED)
        and result.get(EPOCH, 0) >= 1
    )
