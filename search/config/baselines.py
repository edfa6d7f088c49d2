"""The baselines of a sweep's data, scored before the first trial: majority and linear models.

They are trials like any other, tracked and candidates for an ensemble, but they are not reported to
the search nor compared at rungs.
"""

from pathlib import Path

from search.config.sweep_config import SweepConfig, TrialSettings
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.recipe import read_recipe
from trainable.config.tasks import PAPER_TASKS

MAJORITY, FROZEN_LINEAR = "majority", "frozen-linear"
BASELINES = (MAJORITY, FROZEN_LINEAR)
"""Recipes: the most frequent class or mean score; scikit-learn on the frozen encoder."""

_SHARED = (
    *("model.encoder", "model.revision", "model.max_length"),
    *("train.device", "train.precision", "train.eval_batch_size", "seed"),
)
"""Settings that a baseline takes from the sweep, besides those of its data and tasks."""


def baselines(sweep: SweepConfig) -> dict[str, TrialSettings]:
    """Return name -> settings of each baseline: the majority's and, for each encoder, a linear
    model's."""
    if not sweep.search.baselines:
        return {}
    base = sweep.base()
    encoder = sweep.space.get("model.encoder")
    if encoder is None or not encoder.choices:
        encoders = [base.settings.get("model.encoder", Config().model.encoder)]
    else:
        encoders = [str(choice) for choice in encoder.choices]
    by_name = {MAJORITY: _baseline(base, MAJORITY, encoders[0])}
    for each in encoders:
        name = FROZEN_LINEAR if len(encoders) == 1 else f"{FROZEN_LINEAR}-{Path(each).name}"
        by_name[name] = _baseline(base, FROZEN_LINEAR, each)
    return by_name


def _baseline(base: TrialSettings, recipe: str, encoder: str) -> TrialSettings:
    taken = {
        key: value
        for key, value in base.settings.items()
        if key in _SHARED or key.startswith(("data.", "tasks."))
    }
    own = from_flat({key: value for key, value in taken.items() if key.startswith("tasks.")}).tasks
    known, trained = PAPER_TASKS | own, taken.get("data.tasks", Config().data.tasks)
    scored = [name for name in trained if known[name].is_evaluated]
    read = read_recipe(recipe)
    settings = {**read.settings, **taken, "data.tasks": scored, "model.encoder": encoder}
    return TrialSettings(recipe, settings, {**dict.fromkeys(settings, "baseline"), **read.origin})
