"""Which configurations of a sweep are rehearsed before it starts."""

from collections.abc import Iterator

import optuna

from search.config.space import corner_points, suggest
from search.config.sweep_config import SweepConfig
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.training.stages import num_frozen_epochs, total_epochs

LARGEST = "largest with "
"""Before the encoder: the name of its largest configuration."""

_FIRST, _DRAWN = 2, 2
"""First and drawn trials of which the steps are timed; one of the largest besides."""

_DRAWS = 32
"""Points of the space that are looked at for others than its corners."""


def choose(sweep: SweepConfig) -> dict[str, Config]:
    """The largest configuration of each encoder, then first and drawn trials, by what they are.

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
    """Orders configurations of one encoder by the memory of a step: tokens, then the heads."""
    passes = 1 + 2 * config.loss.smart.enabled + config.loss.simcse.enabled
    trains_all = total_epochs(config) > num_frozen_epochs(config)
    tokens = config.batching.batch_size * (config.model.max_length or 512) * passes
    return tokens * (3 if trains_all else 1), config.model.fcn_size
