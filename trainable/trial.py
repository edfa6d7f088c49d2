"""The Ray Tune trainable: the only adapter between Tune and the training loop.

Tune hands it a trial's settings and hears of each epoch; all else is in the trial's folder.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray import tune

from mlflow_setup.schema import OVERALL, EpochRecord, Outcome, OutcomeRecord
from trainable.config import Config, from_flat
from trainable.record import SHARED, TrialFolder

if TYPE_CHECKING:
    from trainable.train import Identity

EPOCH = "epoch"
NUM_EPOCHS = "num_epochs"
VALUE = "overall"
BEST_VALUE = "best_overall"
DIVERGED = "diverged"
"""What Tune is told of an epoch, by name. The best overall so far is what a sweep maximises."""

TRIALS = "trials"
"""The folder of the trials, below the sweep's."""


class Train(Protocol):
    """The signature of `trainable.train.train` as far as a trial uses it."""

    def __call__(
        self,
        config: Config,
        folder: Path,
        *,
        identity: "Identity",
        report: Callable[[EpochRecord], None],
        shared: Path,
    ) -> OutcomeRecord: ...


@dataclass(frozen=True)
class Place:
    """Where the trials of a sweep run and what they are given."""

    storage: Path  # absolute, the same on every machine
    sweep: str
    num_threads: int
    has_gpu: bool

    def folder(self, trial: str) -> Path:
        return self.storage / self.sweep / TRIALS / trial

    @property
    def shared(self) -> Path:
        """What the trials of all sweeps have in common: encoders, teachers, soft labels."""
        return self.storage / SHARED


def make_trainable(place: Place, train: Train | None = None) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs for each trial.

    Its argument has `trial` (name), `recipe`, `settings` (dotted), `origin` and `searched`.

    Args:
        train: trains a trial; `trainable.train.train` unless a test brings its own.
    """

    def run_trial(tune_config: dict[str, Any]) -> None:
        limit_threads(place)
        import trainable.train as training  # torch, once the threads are limited
        from trainable.stages import total_epochs

        config = from_flat(tune_config["settings"], tune_config["origin"])
        folder = place.folder(tune_config["trial"])
        identity = training.Identity(
            tune_config["trial"],
            place.sweep,
            tune_config["recipe"],
            {key: tune_config["origin"].get(key, "default") for key in sorted(config.flat())},
            tuple(tune_config["searched"]),
        )
        reporter = _Reporter(TrialFolder(folder), total_epochs(config))
        run = train or training.train
        ended = run(config, folder, identity=identity, report=reporter, shared=place.shared)
        reporter.end(ended)

    return run_trial


class _Reporter:
    """Tells Tune of each epoch, once it is on disk."""

    def __init__(self, folder: TrialFolder, num_epochs: int) -> None:
        self.folder, self.num_epochs = folder, num_epochs
        self.last_epoch = 0

    def __call__(self, record: EpochRecord) -> None:
        self.last_epoch = record.epoch
        self._report(record.epoch, record.metrics[OVERALL], diverged=False)

    def end(self, outcome: OutcomeRecord) -> None:
        """The epochs that a crash kept from Tune, an early end, and a divergence: no exception."""
        if outcome.outcome is Outcome.DIVERGED:
            self._report(outcome.epoch, 0.0, diverged=True)
            return
        stopped_early = outcome.outcome is Outcome.FINISHED and outcome.epoch < self.num_epochs
        if stopped_early:
            self.num_epochs = outcome.epoch  # it is told as one that ran to its end
        if stopped_early or outcome.epoch > self.last_epoch:
            self(self.folder.epochs()[-1])

    def _report(self, epoch: int, value: float, *, diverged: bool) -> None:
        past = [record.metrics[OVERALL] for record in self.folder.epochs()[:epoch]]
        progress = {
            EPOCH: epoch,
            NUM_EPOCHS: self.num_epochs,
            VALUE: value,
            BEST_VALUE: 0.0 if diverged else max([*past, value]),
            DIVERGED: int(diverged),
        }
        tune.report({**progress, "done": True} if diverged else progress)


def limit_threads(place: Place) -> None:
    """A trial never sees more threads than its CPUs, nor a GPU that it was not given."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(place.num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not place.has_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(place.num_threads)


_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
