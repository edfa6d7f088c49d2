"""Trials of a tiny encoder on tiny data: configurations, learners and whole runs."""

from collections.abc import Callable
from pathlib import Path

import torch

from mlflow_setup.schema import Identity, OutcomeRecord
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.training.learner import Learner
from trainable.training.stages import stages_of
from trainable.training.train import train


def config_of(encoder: Path, data: Path, *overrides: str) -> Config:
    """b3 for two short epochs in float32, and what the overrides change."""
    base = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "model.fcn_size=8"),
        *("train.num_epochs=2", "optim.lr=1e-3", "batching.batch_size=8"),
        *("train.precision=fp32", "pretrain.enabled=false", "data.max_train_examples=24"),
    ]
    return resolve("b3", [*base, *overrides], {}).config


def run(config: Config, folder: Path, shared: Path, **hooks: Callable) -> OutcomeRecord:  # type: ignore[type-arg]
    """The trial, with one thread."""
    torch.set_num_threads(1)
    identity = Identity("0001", None, "b3", {})
    return train(config, folder, identity=identity, shared=shared, **hooks)


def learner_of(config: Config) -> Learner:
    """In its first stage, with one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = Learner(config, read_dataset(config))
    learner.enter(stages_of(config)[0])
    return learner
