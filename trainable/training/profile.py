"""A trial's time, disk and memory: measured by a rehearsal, used by a forecast. Free of torch."""

from dataclasses import dataclass, replace

_STATE_COPIES = 3
"""A checkpoint holds the weights and the two moments of AdamW."""


@dataclass(frozen=True)
class StageCost:
    """What the epochs of a stage take, by what a few of their steps took."""

    num_epochs: int
    num_steps: tuple[int, ...]  # of an epoch, task by task
    step_seconds: tuple[tuple[float, ...], ...]  # of the steps timed, task by task
    eval_seconds: float  # of an epoch
    once_seconds: float = 0.0  # embeddings that the sweep computes once
    is_probe: bool = False
    is_frozen: bool = False  # it trains only heads


@dataclass(frozen=True)
class Rehearsal:
    """What a trial of a configuration takes on the machine where it was rehearsed."""

    num_parameters: int
    start_seconds: float  # data, model and optimizer, before the first step
    stages: tuple[StageCost, ...]
    peak_bytes: int  # of the GPU where there is one, else of the process
    weights_bytes: int  # of one kept epoch
    encoder_bytes: int  # of these, the encoder's
    predictions_bytes: int  # of one epoch

    @property
    def num_epochs(self) -> int:
        return sum(stage.num_epochs for stage in self.stages)

    @property
    def num_probe_epochs(self) -> int:
        return sum(stage.num_epochs for stage in self.stages if stage.is_probe)

    def probe_alone(self) -> "Rehearsal":
        """What the trial takes that ends with its probe."""
        return replace(self, stages=tuple(stage for stage in self.stages if stage.is_probe))

    def kept_bytes(self, num_kept: int) -> int:
        """Of so many kept epochs, at most: those that train only heads share one encoder, which is
        not counted: it is all trials'."""
        num_tuned = sum(stage.num_epochs for stage in self.stages if not stage.is_frozen)
        num_kept, num_whole = min(num_kept, self.num_epochs), min(num_kept, num_tuned)
        return num_kept * (self.weights_bytes - self.encoder_bytes) + num_whole * self.encoder_bytes

    @property
    def checkpoint_bytes(self) -> int:
        return _STATE_COPIES * self.weights_bytes
