"""Trials of a tiny encoder on tiny data: configurations, learners and complete runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlflow_setup.schema import Identity, OutcomeRecord
from trainable.batches.sampler import Step
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.training.learner import Learner
from trainable.training.stages import stages_of
from trainable.training.train import train

NO_DROPOUT = ("model.encoder_dropout=0", "model.head_dropout=0", "loss.simcse.enabled=false")
EVERY_LOSS = ("loss.mnr.tasks=[paraphrase, similarity]", "loss.smart.enabled=true")


def config_of(encoder: Path, data: Path, *overrides: str) -> Config:
    """b3 for two short epochs in float32, with overrides."""
    base = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "model.fcn_size=8"),
        *("train.num_epochs=2", "optim.lr=1e-3", "batching.batch_size=8"),
        *("train.precision=fp32", "pretrain.enabled=false", "data.max_train_examples=24"),
    ]
    return resolve("b3", [*base, *overrides], {}).config


def run(config: Config, folder: Path, shared: Path, **hooks: Callable) -> OutcomeRecord:  # type: ignore[type-arg]
    """Run the trial, with one thread."""
    torch.set_num_threads(1)
    identity = Identity("0001", None, "b3", {})
    return train(config, folder, identity=identity, shared=shared, **hooks)


def learner_of(config: Config) -> Learner:
    """A learner in its first stage, with one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = Learner(config, read_dataset(config))
    learner.enter(stages_of(config)[0])
    return learner


def loss_and_gradients(learner: Learner, task: str) -> tuple[float, dict[str, Tensor]]:
    """The loss and gradients of a step on the task's first eight examples, without an update."""
    learner.model.double()  # so that two computations can be compared
    (batch,) = learner.batches([Step(task, torch.arange(8).numpy())], 1)
    torch.manual_seed(5)
    gradients: dict[str, Tensor] = {}

    def note() -> None:
        named = learner.model.named_parameters()
        gradients.update({name: p.grad.clone() for name, p in named if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.optimizer, "step", note)
        loss = float(learner.step(batch, 1, 0))
    return loss, gradients
