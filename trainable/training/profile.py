"""The time, disk space and memory of a trial, as measured by a rehearsal. Imports no torch."""

from dataclasses import dataclass, replace

_STATE_COPIES = 3
"""A checkpoint holds the weights and the two moments of AdamW."""


@dataclass(frozen=True)
class StageCost:
    """The measured cost of a stage."""

    num_epochs: int
    num_steps: tuple[int, ...]  # per epoch, for each task
    step_seconds: tuple[tuple[float, ...], ...]  # of the timed steps, for each task
    eval_seconds: float  # per epoch
    once_seconds: float = 0.0  # for the embeddings, which a sweep computes once
    is_probe: bool = False
    is_frozen: bool = False  # only heads are trained


@dataclass(frozen=True)
class Rehearsal:
    """The measured cost of a trial on this machine."""

    num_parameters: int
    start_seconds: float  # loading data and model, before the first step
    stages: tuple[StageCost, ...]
    peak_bytes: int  # of GPU memory if there is a GPU, else of main memory
    weights_bytes: int  # per kept epoch
    encoder_bytes: int  # the encoder's part of `weights_bytes`
    predictions_bytes: int  # per epoch

    @property
    def num_epochs(self) -> int:
        return sum(stage.num_epochs for stage in self.stages)

    @property
    def num_probe_epochs(self) -> int:
        return sum(stage.num_epochs for stage in self.stages if stage.is_probe)

    def probe_alone(self) -> "Rehearsal":
        """The cost of a trial with the stage `probe` only."""
        return replace(self, stages=tuple(stage for stage in self.stages if stage.is_probe))

    def kept_bytes(self, num_kept: int) -> int:
        """The most that the weights of `num_kept` epochs take, without the encoder of epochs that
        train only heads, which all trials share."""
        num_tuned = sum(stage.num_epochs for stage in self.stages if not stage.is_frozen)
        num_kept, num_encoders = min(num_kept, self.num_epochs), min(num_kept, num_tuned)
        heads_bytes = self.weights_bytes - self.encoder_bytes
        return num_kept * heads_bytes + num_encoders * self.encoder_bytes

    @property
    def checkpoint_bytes(self) -> int:
        return _STATE_COPIES * self.weights_bytes
