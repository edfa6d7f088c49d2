"""The stages of a trial, with their epochs and learning rates.

`fit` fits linear heads on a frozen encoder in closed form, `probe` trains heads on it, `finetune`
trains all weights, and `swa` trains all weights at a constant learning rate and averages them over
its epochs. Epochs are numbered consecutively through all stages.
"""

from dataclasses import dataclass
from typing import Literal

from trainable.config.config import Config
from trainable.config.sections import Optim

Name = Literal["fit", "probe", "finetune", "swa"]


@dataclass(frozen=True)
class Stage:
    """A stage and its range of epochs, counted from 1."""

    name: Name
    first_epoch: int
    num_epochs: int

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder is frozen."""
        return self.name in ("fit", "probe")

    @property
    def last_epoch(self) -> int:
        return self.first_epoch + self.num_epochs - 1

    def progress(self, epoch: int) -> float:
        """0 in the stage's first epoch, 1 in its last."""
        return (epoch - self.first_epoch) / max(1, self.num_epochs - 1)

    def rate(self, config: Config, epoch: int, step: int) -> float:
        """The learning rate of the stage's step `step` (from 0), in the trial's epoch `epoch`."""
        if self.is_frozen:
            return config.probe.lr
        if self.name == "swa":
            return config.swa.lr
        optim = config.optim
        rate = learning_rate(optim, epoch - self.first_epoch + 1, self.num_epochs)
        return rate * min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else rate


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The trial's stages, in order."""
    lengths = {
        "fit": 1,
        "probe": config.probe.num_epochs,
        "finetune": config.train.num_epochs,
        "swa": config.swa.num_epochs,
    }
    stages: list[Stage] = []
    for name in config.train.stages:
        first = sum(stage.num_epochs for stage in stages) + 1
        stages.append(Stage(name, first, lengths[name]))
    return tuple(stages)


def total_epochs(config: Config) -> int:
    """Number of epochs of all stages."""
    return sum(stage.num_epochs for stage in stages_of(config))


def num_probe_epochs(config: Config) -> int:
    """Number of epochs of the stage `probe`."""
    return sum(stage.num_epochs for stage in stages_of(config) if stage.name == "probe")


def num_frozen_epochs(config: Config) -> int:
    """Number of epochs with a frozen encoder, the first ones of the trial."""
    return sum(stage.num_epochs for stage in stages_of(config) if stage.is_frozen)


def stage_at(config: Config, epoch: int) -> Stage:
    """The stage that `epoch` belongs to."""
    return next(s for s in reversed(stages_of(config)) if s.first_epoch <= epoch)


def first_candidate_epoch(config: Config, epoch: int) -> int:
    """The first epoch that is a candidate, for a trial that has completed `epoch`: 1, or the first
    of the stage `swa` once that has begun, as only the average counts then."""
    stage = stage_at(config, epoch)
    return stage.first_epoch if stage.name == "swa" else 1


def learning_rate(optim: Optim, epoch: int, num_epochs: int) -> float:
    """lr x (1 - lr_decay x (epoch - 1) / num_epochs), at least 0, with epochs counted from 1; or lr
    - lr_decay_per_epoch x (epoch - 1) if that is set.

    The paper's schedule, 1e-5 minus 4e-7 per epoch over 20 epochs, is lr=1e-5 with lr_decay=0.8, or
    with lr_decay_per_epoch=4e-7 for any number of epochs.
    """
    if optim.lr_decay_per_epoch is not None:
        return max(0.0, optim.lr - optim.lr_decay_per_epoch * (epoch - 1))
    return max(0.0, optim.lr * (1 - optim.lr_decay * (epoch - 1) / num_epochs))


def final_rate(config: Config) -> float | None:
    """The learning rate in the last epoch of fine-tuning; None without that stage."""
    if "finetune" not in config.train.stages:
        return None
    return learning_rate(config.optim, config.train.num_epochs, config.train.num_epochs)
