"""Chooses the configurations of a sweep that are rehearsed before it starts."""

from collections.abc import Iterator

import optuna

from search.config.space import corner_points, suggest
from search.config.sweep_config import SweepConfig
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.training.stages import num_frozen_epochs, total_epochs

LARGEST = "largest with "
"""Prefix of the name of an encoder's largest configuration."""

_FIRST, _DRAWN = 2, 2
"""Number of first and of drawn trials that are timed, besides the largest configurations."""

_DRAWS = 32
"""Random points among which the largest configuration is searched, besides the corners."""


def choose(sweep: SweepConfig) -> dict[str, Config]:
    """Return name -> configuration: the largest of each encoder, then first and drawn trials.

    Raises:
        ConfigError: a point of the space is no valid configuration.
    """
    first = [_first(sweep, number) for number in range(len(sweep.first_trials))]
    first = first[: sweep.search.num_samples]
    drawn, corners = [], []
    if len(first) < sweep.search.num_samples:
        drawn, corners = list(_draws(sweep)), list(_corners(sweep))
    largest: dict[tuple[str, str | None], Config] = {}
    for config in sorted([*first, *drawn, *corners], key=_size):
        largest[config.model.encoder, config.model.revision] = config
    chosen = {f"{LARGEST}{name}": config for (name, _), config in largest.items()}
    for number, config in enumerate(first[:_FIRST], start=1):
        chosen[f"first trial {number} ({sweep.first_trials[number - 1].recipe})"] = config
    return chosen | {f"drawn trial {n}": c for n, c in enumerate(drawn[:_DRAWN], start=1)}


def _first(sweep: SweepConfig, number: int) -> Config:
    given, point = sweep.first(number)
    return from_flat({**given.settings, **point})


def _draws(sweep: SweepConfig) -> Iterator[Config]:
    base = sweep.base()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(sweep.search.seed))
    for _ in range(_DRAWS if sweep.space else 1):
        drawn = suggest(sweep.space, study.ask(), base.with_defaults)
        yield from_flat({**base.settings, **drawn})


def _corners(sweep: SweepConfig) -> Iterator[Config]:
    base = sweep.base()
    for point in corner_points(sweep.space, base.with_defaults):
        yield from_flat({**base.settings, **point})


def _size(config: Config) -> tuple[int, int]:
    """Return a sort key by the memory of a training step: tokens, then the size of the heads."""
    passes = 1 + 2 * config.loss.smart.enabled + config.loss.simcse.enabled
    trains_all = total_epochs(config) > num_frozen_epochs(config)
    tokens = config.batching.batch_size * (config.model.max_length or 512) * passes
    return tokens * (3 if trains_all else 1), config.model.fcn_size
