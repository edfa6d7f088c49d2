"""The Ray Tune trainable, the adapter between Tune and the training loop.

Tune passes a trial's settings and gets a report of each epoch; everything else is in the trial's
folder. A resumed trial first reports the last epoch on disk again, in case the previous process
could not.
"""

import functools
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.trainable import wrap_function

from mlflow_setup.errors import EnsweepError, PartialError
from mlflow_setup.filesystem.atomic import is_full
from mlflow_setup.schema import OVERALL, EpochRecord, Identity, Outcome, OutcomeRecord
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.data.inputs import ChangedInputError, expecting
from trainable.runtime.progress import write_progress
from trainable.runtime.threads import limit_environment, limit_threads
from trainable.storage.layout import PROGRESS_FILE
from trainable.storage.trial_folder import TrialFolder
from trainable.training.stages import num_probe_epochs, total_epochs
from trainable.tune.actor_memory import Leftovers
from trainable.tune.attempt import Attempt, listen, was_terminated
from trainable.tune.keys import (
    BEST_VALUE,
    DIVERGED,
    EPOCH,
    NO_ROOM,
    NUM_EPOCHS,
    NUM_PROBE_EPOCHS,
    PROBLEM,
    VALUE,
)
from trainable.tune.placement import TrialPlacement


class Train(Protocol):
    """The part of the signature of `trainable.training.train.train` that trials use."""

    def __call__(
        self,
        config: Config,
        folder: Path,
        *,
        identity: Identity,
        report: Callable[[EpochRecord], None],
        stop: Callable[[], bool],
        shared: Path,
    ) -> OutcomeRecord: ...


def make_trainable(
    place: TrialPlacement, train: Train | None = None
) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs for each trial.

    Its argument has `trial` (name), `recipe`, `settings` (dotted), `origin` and `searched`.

    Args:
        train: trains a trial; default: `trainable.training.train.train`. For tests.
    """

    def run_trial(tune_config: dict[str, Any]) -> None:
        began = time.monotonic()  # the trial is charged for the time before its first step as well
        limit_environment(place.num_threads, place.num_gpus)
        train_it = train or _load_train(place)
        _freeze_imports()
        folder = place.folder(tune_config["trial"])
        try:
            limits = place.limits()
            with expecting(place.inputs), Attempt(folder, limits, began) as attempt:
                _attempt(tune_config, place, train_it, attempt)
        except Exception as error:
            if not is_full(error):
                raise
            where = getattr(error, "filename", None) or folder
            _give_up(f"no space is left for {where}", is_full=True)

    return run_trial


def listening(run_trial: Callable[[dict[str, Any]], None]) -> type:
    """Tune's trainable class for the function, with a handler of SIGTERM that stops the trial.

    Signal handlers need an actor's main thread, and the trial runs in another. The next trial
    reuses the process, which has torch imported, unless memory was leaked: then the process ends
    itself, and Tune restarts the trial in another.
    """

    class Trial(wrap_function(run_trial)):  # type: ignore[misc]  # ray is untyped
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # the trial's folder is elsewhere
            super().__init__(*args, **kwargs)

        def setup(self, config: dict[str, Any]) -> None:
            listen()
            self._leftovers, self._is_spent = Leftovers(), False
            super().setup(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            """Prepare the next trial; always True, else Tune would count the trial as failed."""
            has_ended = bool(super().reset_config(new_config))
            has_grown = self._leftovers.has_leaked()
            self._is_spent = was_terminated() or has_grown or not has_ended
            return True

        def step(self) -> Any:
            if self._is_spent:
                ray.actor.exit_actor()
            return super().step()

    return Trial


def _load_train(place: TrialPlacement) -> Train:
    """Limit the threads and import the training loop, with torch."""
    limit_threads(place.num_threads, place.num_gpus)
    from trainable.training.train import train

    return train


@functools.cache
def _freeze_imports() -> None:
    """Exclude imported objects from garbage collection, which would take a third of a second."""
    gc.freeze()


def _attempt(
    tune_config: dict[str, Any], place: TrialPlacement, train: Train, attempt: Attempt
) -> None:
    reporter = _Reporter(TrialFolder(attempt.folder), attempt)
    try:
        origin = tune_config["origin"]
        config = from_flat(tune_config["settings"], origin)
        reporter.start(total_epochs(config), num_probe_epochs(config))
        identity = Identity(
            tune_config["trial"],
            place.sweep,
            tune_config["recipe"],
            {key: origin.get(key, "default") for key in sorted(config.flat())},
            tuple(tune_config["searched"]),
        )
        with write_progress(attempt.folder / PROGRESS_FILE):
            ended = train(
                config,
                attempt.folder,
                identity=identity,
                report=reporter,
                stop=attempt.should_stop,
                shared=place.shared,
            )
        if reporter.folder.outcome() is None and not ended.outcome.is_terminal:
            # Stopped before it began, for example while its teacher was trained. The driver counts
            # a trial without an outcome as failed.
            reporter.folder.write_outcome(ended)
        reporter.end(ended)
    except ChangedInputError as error:
        _give_up(error.problem)
    except PartialError:
        raise  # temporary: the next attempt may succeed
    except EnsweepError as error:  # permanent: the next attempt would fail as well
        if is_full(error):
            raise
        last = OutcomeRecord(Outcome.FAILED, error.problem, reporter.epoch, time.time())
        TrialFolder(attempt.folder).write_outcome(last)
        reporter.end(last)


def _give_up(problem: str, *, is_full: bool = False) -> None:
    """Report that the sweep cannot continue; the trial gets no outcome and can be resumed."""
    nothing = {EPOCH: 0, NUM_EPOCHS: 1, NUM_PROBE_EPOCHS: 0, VALUE: 0.0, BEST_VALUE: 0.0}
    tune.report({**nothing, DIVERGED: 0, PROBLEM: problem, NO_ROOM: int(is_full)})


class _Reporter:
    """Reports epochs to Tune that are on disk."""

    def __init__(self, folder: TrialFolder, attempt: Attempt) -> None:
        self.folder, self.attempt = folder, attempt
        self.epoch, self.num_epochs, self.num_probe_epochs = 0, 1, 0
        self.values: list[float] = []  # overall score of each epoch so far
        self.has_reported = False

    def start(self, num_epochs: int, num_probe_epochs: int) -> None:
        """Report the last epoch on disk again: an earlier process may have died before it did."""
        self.num_epochs, self.num_probe_epochs = num_epochs, num_probe_epochs
        past, ended = self.folder.epochs(), self.folder.outcome()
        self.values = [record.metrics[OVERALL] for record in past]
        if past and (ended is None or not ended.outcome.is_terminal):
            self(past[-1])

    def __call__(self, record: EpochRecord) -> None:
        if record.epoch < self.epoch:
            return  # repeated, from a checkpoint before the last epoch on disk
        self.epoch = record.epoch
        self.values[self.epoch - 1 :] = [record.metrics[OVERALL]]
        self._report(self.values[-1])

    def end(self, outcome: OutcomeRecord) -> None:
        """Report what Tune does not know yet: a last epoch, early stopping, a divergence."""
        if outcome.outcome in (Outcome.DIVERGED, Outcome.FAILED):
            self.epoch = outcome.epoch
            self._report(0.0, diverged=True)
        elif outcome.outcome is Outcome.FINISHED:
            stopped_early = outcome.epoch < self.num_epochs
            if stopped_early:
                self.num_epochs = outcome.epoch  # reported as a trial that completed all epochs
            if stopped_early or outcome.epoch > self.epoch:
                self(self.folder.epochs()[-1])
        elif not self.has_reported:  # Tune requires at least one report
            self._report(0.0)

    def _report(self, value: float, *, diverged: bool = False) -> None:
        progress = {
            EPOCH: self.epoch,
            NUM_EPOCHS: self.num_epochs,
            NUM_PROBE_EPOCHS: self.num_probe_epochs,
            VALUE: value,
            BEST_VALUE: 0.0 if diverged else max([*self.values, value]),
            DIVERGED: int(diverged),
            PROBLEM: "",
        }
        self.has_reported = True
        with self.attempt.waiting():
            tune.report({**progress, "done": True} if diverged else progress)
