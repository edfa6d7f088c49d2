"""A rehearsal: a few steps of a configuration, which check that it runs and measure its cost.

Full-size batches of the real epoch plan and of the dev set are timed, and only these are tokenised.
The plan therefore uses lengths in characters instead of tokens.
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
"""Number of timed batches of dev examples, over all tasks."""


def rehearse(config: Config, dataset: Dataset, *, num_steps: int = 3) -> Rehearsal:
    """Train and evaluate a few batches in each stage of `config`.

    Work that is done once for all trials is left out: soft labels, additional pre-training.

    Args:
        num_steps: number of timed steps per task and stage, after one warm-up step.

    Raises:
        ConfigError: the encoder cannot be loaded, or a loss or an output is not finite.
    """
    if config.pretrain.enabled:
        load_masked_lm(config)  # to check that it can be loaded
    started = time.perf_counter()
    config = _without_preparation(config)
    stages = stages_of(config)
    plans = [_plan(config, dataset.train, stage) for stage in stages]
    sampled = [_sample_steps(plan, num_steps + 1) for plan in plans]
    subset, sampled = _subset(config, dataset, sampled)
    seed_globals(config.seed)
    learner = Learner(config, subset)
    start_seconds = time.perf_counter() - started
    costs = []
    for stage, plan, steps in zip(stages, plans, sampled, strict=True):
        counts = Counter(step.task_name for step in plan)
        costs.append(_cost(learner, stage, steps, counts, dataset, subset))
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
    """Steps per second in a trial's last stage, measured for `seconds`.

    Args:
        begin: called before timing starts; waits until the parallel measurements are ready.

    Raises:
        ConfigError: the encoder cannot be loaded.
    """
    config = _without_preparation(config)
    stage = stages_of(config)[-1]
    sampled = [_sample_steps(_plan(config, dataset.train, stage), 8)]
    subset, (steps,) = _subset(config, dataset, sampled)
    seed_globals(config.seed)
    learner = Learner(config, subset)
    learner.enter(stage)
    for number, batch in enumerate(learner.batches(steps, stage.first_epoch)):
        loss = learner.step(batch, stage.first_epoch, number)  # warm-up, once for each shape
    float(loss)
    begin()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for number, batch in enumerate(learner.batches(steps, stage.first_epoch)):
            loss = learner.step(batch, stage.first_epoch, number)
            done += 1
        float(loss)  # waits for a GPU
    return done / (time.perf_counter() - started)


def _subset(
    config: Config, dataset: Dataset, sampled: Sequence[Sequence[Step]]
) -> tuple[Dataset, list[list[Step]]]:
    """The training rows of the sampled steps and a few batches of dev; and the steps, renumbered
    for these rows."""
    rows = {name: _rows_of(chain(*sampled), name) for name in dataset.train}
    fraction = min(1.0, _EVAL_BATCHES * config.train.eval_batch_size / _num_rows(dataset.dev))
    subset = Dataset(
        dataset.tasks,
        {name: examples.take(rows[name]) for name, examples in dataset.train.items()},
        {name: _sample_examples(examples, fraction) for name, examples in dataset.dev.items()},
        {},
        dataset.fingerprint,
    )
    return subset, [
        [Step(s.task_name, np.searchsorted(rows[s.task_name], s.rows)) for s in steps]
        for steps in sampled
    ]


def _without_preparation(config: Config) -> Config:
    """The configuration without distillation and additional pre-training."""
    distill = config.distill.model_copy(update={"enabled": False})
    pretrain = config.pretrain.model_copy(update={"enabled": False})
    return config.model_copy(update={"distill": distill, "pretrain": pretrain})


def _plan(config: Config, train: Mapping[str, Examples], stage: Stage) -> list[Step]:
    lengths = {name: _num_characters(examples) for name, examples in train.items()}
    return plan_epoch(lengths, config.batching, config.seed, stage.first_epoch)


def _sample_steps(plan: Sequence[Step], num_steps: int) -> list[Step]:
    """Up to `num_steps` steps of each task, evenly spaced in the plan."""
    steps: list[Step] = []
    for name in dict.fromkeys(step.task_name for step in plan):
        task_steps = [step for step in plan if step.task_name == name]
        steps += task_steps[:: max(1, len(task_steps) // num_steps)][:num_steps]
    return steps


def _cost(
    learner: Learner,
    stage: Stage,
    steps: Sequence[Step],
    counts: Mapping[str, int],
    dataset: Dataset,
    subset: Dataset,
) -> StageCost:
    started = time.perf_counter()
    learner.enter(stage)
    once_seconds = 0.0
    if learner.embeddings["train"]:
        fraction = _num_rows(subset.train) / _num_rows(dataset.train)
        once_seconds = (time.perf_counter() - started) / fraction
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
        eval_seconds * _num_rows(dataset.dev) / _num_rows(subset.dev),
        once_seconds,
        stage.name == "probe",
        stage.is_frozen,
    )


def _time_steps(learner: Learner, stage: Stage, steps: Sequence[Step]) -> dict[str, list[float]]:
    """Task -> seconds of each of its steps, without the first if it has several."""
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
    """The sorted rows of a task's steps; row 0 if it has no steps."""
    rows = [step.rows for step in steps if step.task_name == name]
    return np.unique(np.concatenate(rows)) if rows else np.zeros(1, np.int64)


def _sample_examples(examples: Examples, fraction: float) -> Examples:
    """A fraction of the examples, evenly spaced in the order of their lengths."""
    order = np.argsort(_num_characters(examples), kind="stable")
    ranks = np.linspace(0, len(order) - 1, max(1, round(fraction * len(order))))
    return examples.take(np.sort(order[ranks.astype(np.int64)]))


def _num_characters(examples: Examples) -> NDArray[np.int64]:
    return np.array([sum(map(len, row)) for row in zip(*examples.sentences, strict=True)])


def _num_rows(split: Mapping[str, Examples]) -> int:
    return sum(map(len, split.values()))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
