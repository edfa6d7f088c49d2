"""Artifacts that trials of a sweep share, made once before the first trial starts.

These are encoders with additional pre-training, and soft labels of teachers. A trial that needs
another one (if the search enables them) makes it itself, and the trials that need the same wait.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.tracking.store import Tracking
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.data.inputs import expecting
from trainable.runtime.stopping import StopRequested
from trainable.runtime.threads import limit_threads
from trainable.tune.attempt import Attempt
from trainable.tune.placement import TrialPlacement

_POLL_SECONDS = 1.0


def prepare(
    configs: Iterable[Config],
    place: TrialPlacement,
    tracking: Tracking,
    needs: dict[str, float],
    console: Console,
    is_stopping: Callable[[], bool],
) -> None:
    """Make the encoders and soft labels that `configs` need and the shared folder lacks.

    Args:
        needs: CPU and GPU of a trial, for the task that pre-trains.
        is_stopping: called every second; may stop the sweep. Pre-training watches the sweep's stop
            file and leaves a checkpoint.

    Raises:
        ConfigError: pre-training failed, or a teacher cannot be read.
    """
    wanted = list(configs)
    encoders = _distinct(wanted)
    if encoders:
        console.print(f"pre-training: {len(encoders)} encoder(s), unless they exist already")
        task = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"])(_pretrain)
        sent = [task.remote(config.flat(), place, i) for i, config in enumerate(encoders, start=1)]
        for problem in filter(None, _results(sent, is_stopping)):
            raise ConfigError(f"additional pre-training: {problem}")
    distilled = [config for config in wanted if config.distill.enabled]
    if distilled:
        from ensemble.distillation.teachers import teach  # imports torch, which takes seconds

        with suppress(StopRequested):
            for config in distilled:
                teach(config, place.shared, tracking, stop=is_stopping)


def _distinct(configs: Iterable[Config]) -> list[Config]:
    """Return the configurations that pre-train, one for each encoder that would result."""
    distinct: dict[str, Config] = {}
    for config in configs:
        if config.pretrain.enabled:
            data = config.data.model_copy(update={"tasks": ()})
            draws = data.max_train_examples is not None or data.train_fraction < 1
            key = (config.pretrain, config.model.encoder, config.model.revision, data, config.tasks)
            distinct.setdefault(f"{key} {config.seed if draws else ''}", config)
    return list(distinct.values())


def _results(sent: Sequence[Any], is_stopping: Callable[[], bool]) -> list[str | None]:
    waiting = list(sent)
    while waiting:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_SECONDS)
        is_stopping()
    return list(ray.get(list(sent)))


def _pretrain(settings: dict[str, Any], place: TrialPlacement, number: int) -> str | None:
    """Pre-train in a worker. Return the problem; None: the encoder is made, or the sweep stops."""
    limit_threads(place.num_threads, place.num_gpus)
    from trainable.pretraining.pretrain import pretrained_encoder

    try:
        attempt_at = Attempt(place.preparation(number), place.limits())
        with expecting(place.inputs), attempt_at as attempt:
            pretrained_encoder(from_flat(settings), Path(place.shared), attempt.should_stop)
    except StopRequested:
        return None
    except EnsweepError as error:
        return error.problem
    return None
