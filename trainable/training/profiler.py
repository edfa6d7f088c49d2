"""A rehearsal: a few steps of a configuration, to see that it runs and to measure its cost.

Whole batches of the real epoch plan are timed, and whole batches of the dev set; nothing is
tokenised but these. Characters stand for tokens where batches of like length are put together.
"""

import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from mlflow_setup.errors import ConfigError
from trainable.batches.sampler import Step, plan_epoch
from trainable.config.config import Config
from trainable.data.dataset import Dataset
from trainable.data.examples import Examples
from trainable.pretraining.masked_lm import load_masked_lm
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.profile import Rehearsal, StageCost
from trainable.training.stages import Stage, stages_of

_EVAL_BATCHES = 6
"""Batches of dev examples that are timed, of all tasks together."""


def rehearse(config: Config, dataset: Dataset, *, num_steps: int = 3) -> Rehearsal:
    """Train and evaluate a few batches in each stage of `config`.

    What is made once for all trials is left out: soft labels, additional pre-training.

    Args:
        num_steps: timed steps of each task and stage; one before them is not timed.

    Raises:
        ConfigError: the encoder cannot be loaded, or a loss or an output is not finite.
    """
    if config.pretrain.enabled:
        load_masked_lm(config)  # or refuse it
    started = time.perf_counter()
    config = _self_contained(config)
    stages = stages_of(config)
    plans = [_plan(config, dataset.train, stage) for stage in stages]
    picked = [_pick(plan, num_steps + 1) for plan in plans]
    small, picked = _small(config, dataset, picked)
    seed_globals(config.seed)
    learner = Learner(config, small)
    start_seconds = time.perf_counter() - started
    costs = []
    for stage, plan, steps in zip(stages, plans, picked, strict=True):
        counts = Counter(step.task_name for step in plan)
        costs.append(_cost(learner, stage, steps, counts, dataset, small))
    weights, encoder = (
        sum(value.nbytes for value in module.state_dict().values())
        for module in (learner.model, learner.model.encoder)
    )
    columns = {name: 1 + task.num_outputs for name, task in dataset.tasks.items()}
    return Rehearsal(
        learner.model.num_parameters,
        start_seconds,
        tuple(costs),
        _peak_bytes(learner.device),
        weights,
        encoder,
        sum(4 * columns[name] * len(examples) for name, examples in dataset.dev.items()),
    )


def steps_per_second(
    config: Config, dataset: Dataset, seconds: float, begin: Callable[[], None]
) -> float:
    """How many steps of a trial's last stage are done in a second, for so many seconds.

    Args:
        begin: called before the clock is started; waits for those that run beside this one.

    Raises:
        ConfigError: the encoder cannot be loaded.
    """
    config = _self_contained(config)
    stage = stages_of(config)[-1]
    small, (steps,) = _small(config, dataset, [_pick(_plan(config, dataset.train, stage), 8)])
    seed_globals(config.seed)
    learner = Learner(config, small)
    learner.enter(stage)
    for number, batch in enumerate(learner.batches(steps, stage.first_epoch)):
        loss = learner.step(batch, stage.first_epoch, number)  # each shape once
    float(loss)
    begin()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for number, batch in enumerate(learner.batches(steps, stage.first_epoch)):
            loss = learner.step(batch, stage.first_epoch, number)
            done += 1
        float(loss)  # waits for a GPU
    return done / (time.perf_counter() - started)


def _small(
    config: Config, dataset: Dataset, picked: Sequence[Sequence[Step]]
) -> tuple[Dataset, list[list[Step]]]:
    """The data of the picked steps and a few batches of dev, and the steps among these."""
    rows = {name: _rows_of(chain(*picked), name) for name in dataset.train}
    share = min(1.0, _EVAL_BATCHES * config.train.eval_batch_size / _num_rows(dataset.dev))
    small = Dataset(
        dataset.tasks,
        {name: examples.take(rows[name]) for name, examples in dataset.train.items()},
        {name: _spread(examples, share) for name, examples in dataset.dev.items()},
        {},
        dataset.fingerprint,
    )
    return small, [
        [Step(s.task_name, np.searchsorted(rows[s.task_name], s.rows)) for s in steps]
        for steps in picked
    ]


def _self_contained(config: Config) -> Config:
    """Without what would have to be made first."""
    distill = config.distill.model_copy(update={"enabled": False})
    pretrain = config.pretrain.model_copy(update={"enabled": False})
    return config.model_copy(update={"distill": distill, "pretrain": pretrain})


def _plan(config: Config, train: Mapping[str, Examples], stage: Stage) -> list[Step]:
    lengths = {name: _num_characters(examples) for name, examples in train.items()}
    return plan_epoch(lengths, config.batching, config.seed, stage.first_epoch)


def _pick(plan: Sequence[Step], num_steps: int) -> list[Step]:
    """Up to `num_steps` steps of each task that stand for all of an epoch's."""
    steps: list[Step] = []
    for name in dict.fromkeys(step.task_name for step in plan):
        of_task = [step for step in plan if step.task_name == name]
        steps += of_task[:: max(1, len(of_task) // num_steps)][:num_steps]
    return steps


def _cost(
    learner: Learner,
    stage: Stage,
    steps: Sequence[Step],
    counts: Mapping[str, int],
    dataset: Dataset,
    small: Dataset,
) -> StageCost:
    started = time.perf_counter()
    learner.enter(stage)
    once_seconds = 0.0
    if learner.embeddings["train"]:
        share = _num_rows(small.train) / _num_rows(dataset.train)
        once_seconds = (time.perf_counter() - started) / share
    seconds = _time_steps(learner, stage, steps)
    started = time.perf_counter()
    for name, outputs in learner.dev_outputs().items():
        if not np.isfinite(outputs).all():
            raise ConfigError(f"an output for {name} is not finite after a few steps")
    eval_seconds = time.perf_counter() - started
    return StageCost(
        stage.num_epochs,
        tuple(counts[name] for name in seconds),
        tuple(map(tuple, seconds.values())),
        eval_seconds * _num_rows(dataset.dev) / _num_rows(small.dev),
        once_seconds,
        stage.name == "probe",
        stage.is_frozen,
    )


def _time_steps(learner: Learner, stage: Stage, steps: Sequence[Step]) -> dict[str, list[float]]:
    """Seconds of each step, task by task, but for the first of a task that has several."""
    seconds: dict[str, list[float]] = {step.task_name: [] for step in steps}
    batches = learner.batches(steps, stage.first_epoch)
    started = time.perf_counter()
    for number, batch in enumerate(batches):
        loss = float(learner.step(batch, stage.first_epoch, number))  # waits for a GPU
        seconds[batch.task_name].append(time.perf_counter() - started)
        if not math.isfinite(loss):
            raise ConfigError(f"the loss of {batch.task_name} is {loss} after {number} steps")
        started = time.perf_counter()
    return {name: times[1:] or times for name, times in seconds.items()}


def _rows_of(steps: Iterable[Step], name: str) -> NDArray[np.int64]:
    """The rows of a task's steps, sorted; one row where no step has any."""
    rows = [step.rows for step in steps if step.task_name == name]
    return np.unique(np.concatenate(rows)) if rows else np.zeros(1, np.int64)


def _spread(examples: Examples, share: float) -> Examples:
    """A share of the examples, of all lengths alike."""
    order = np.argsort(_num_characters(examples), kind="stable")
    wanted = np.linspace(0, len(order) - 1, max(1, round(share * len(order))))
    return examples.take(np.sort(order[wanted.astype(np.int64)]))


def _num_characters(examples: Examples) -> NDArray[np.int64]:
    return np.array([sum(map(len, row)) for row in zip(*examples.sentences, strict=True)])


def _num_rows(split: Mapping[str, Examples]) -> int:
    return sum(map(len, split.values()))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
