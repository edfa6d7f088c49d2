"""Learners and batches for the tiny data set."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_trials import config_of, learner_of

from trainable.batches.collate import Batch
from trainable.batches.sampler import Step
from trainable.training.learner import Learner

ROWS = torch.arange(8).numpy()


def new_learner(encoder: Path, data: Path, *overrides: str) -> Learner:
    """A learner in float64, so that two computations of the same value can be compared."""
    learner = learner_of(config_of(encoder, data, *overrides))
    learner.model.double()
    return learner


def new_batch(learner: Learner, task: str, number: int = 0) -> Batch:
    steps = [Step(task, ROWS)] * (number + 1)
    (batch,) = learner.batches(steps, 1, number)
    assert batch.labels is not None
    return replace(batch, labels=batch.labels.double())
