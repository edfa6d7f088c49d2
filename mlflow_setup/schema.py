"""The contract between the floors: names used in MLflow, and the records of a trial.

Free of mlflow. A trial's folder (`trainable.storage.trial_folder`) holds these records as JSON; the
mirror projects them onto an MLflow run; `runs/query.py` reads them back as `RunRecord`s.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlflow_setup.records import Record

EXPERIMENT = "ensweep"
SCHEMA_VERSION = 2

TRAININGS = "train"
"""The sweep that runs of `ensweep train` are trials of; the latest only where there is no other."""

OVERALL = "dev/overall"
"""The objective of a sweep: mean over the tasks that were trained and have a metric, in [0, 1]."""


def other_release(version: object, known: int) -> str | None:
    """What is said of a file whose schema's number is not the one that is known; None if it is."""
    if version == known:
        return None
    return (
        f"its schema is number {version!r:.20}, of another release, and this one reads {known}: "
        "read it with that release, or make it anew"
    )


class Tag(StrEnum):
    """MLflow tags. A run is found again by `KIND`, `SWEEP` and `TRIAL`, never by memory."""

    KIND = "kind"  # one of RunKind
    SWEEP = "sweep"
    TRIAL = "trial"
    RECIPE = "recipe"
    OUTCOME = "outcome"
    REASON = "outcome_reason"
    SEED = "seed"
    PRETRAIN = "pretrain"
    DATA = "data_fingerprint"
    GIT_REVISION = "git_revision"
    WEIGHTS_URI = "weights_uri"
    KEPT_EPOCHS = "kept_epochs"
    NUM_EPOCHS = "num_epochs"  # completed when the trial ended
    NOTES = "notes"  # JSON counts: parameters, skipped rows
    CHOICE = "choice"  # of an ensemble: digest of what was chosen
    SEARCHED = "searched"  # of a sweep: dotted names, comma-separated
    BASELINES = "baselines"  # of a sweep: recipes, comma-separated
    PLANNED = "planned"  # of the experiment: when a plan last proved that it can be written to


class RunKind(StrEnum):
    SWEEP = "sweep"
    TRIAL = "trial"
    ENSEMBLE = "ensemble"


class Outcome(StrEnum):
    """How a trial ended. Every end state has a name, and every reader handles each of them."""

    FINISHED = "finished"  # ran all its epochs
    PRUNED = "pruned"  # stopped by the scheduler
    DIVERGED = "diverged"  # a loss or metric was not finite
    FAILED = "failed"  # an error, after its retries
    STOPPED = "stopped"  # asked to stop; resumable

    @property
    def is_terminal(self) -> bool:
        """Whether the trial will not run on: all but `stopped`."""
        return self is not Outcome.STOPPED


def state_of(outcome: Outcome | None) -> str:
    """How a trial ended, or `running`."""
    return "running" if outcome is None else outcome.value


RUN_STATUS: dict[Outcome, str] = {
    Outcome.FINISHED: "FINISHED",
    Outcome.PRUNED: "FINISHED",
    Outcome.DIVERGED: "FAILED",
    Outcome.FAILED: "FAILED",
    Outcome.STOPPED: "KILLED",
}
"""MLflow's status for each outcome; readers filter on the outcome tag, not on the status."""

UNKNOWN_DATA = "unknown"
"""The fingerprint in the record of a trial that failed before it had read its data."""

CONFIG_ARTIFACT = "config.json"
PREDICTIONS_ARTIFACT = "predictions"


def metric_name(split: str, task: str, metric: str) -> str:
    """`dev/sentiment/accuracy`, `train/sentiment/loss`: the one spelling of a metric."""
    return f"{split}/{task}/{metric}"


def prediction_path(epoch: int) -> str:
    """`0007.parquet`, below `predictions` in the trial's folder and among its artifacts: those of
    all tasks after an epoch."""
    return f"{epoch:04d}.parquet"


@dataclass(frozen=True, slots=True)
class TrialRecord(Record):
    """A trial's settings and data: `config.json`, written once before the first step."""

    trial: str
    sweep: str | None
    recipe: str
    config: dict[str, Any]  # dotted name -> JSON value
    origin: dict[str, str]  # dotted name -> where the value came from
    seed: int
    data_fingerprint: str
    git_revision: str | None
    start_time: float  # seconds since the Unix epoch
    searched: tuple[str, ...] = ()  # dotted names that the search chose
    notes: dict[str, int] = dataclasses.field(default_factory=dict)  # e.g. dropped rows
    encoder_revision: str | None = None  # the hub's commit; None: not from the hub, or made here
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        problem = other_release(self.schema_version, SCHEMA_VERSION)
        if problem is not None:
            raise ValueError(problem)


@dataclass(frozen=True, slots=True)
class EpochRecord(Record):
    """An epoch's metrics: `epochs/0007.json`, written once. Epochs count from 1."""

    epoch: int
    metrics: dict[str, float]  # finite; metric_name(...) -> value
    dev_train: dict[str, float]  # the same dev metrics on the dev-train half alone
    seconds: float
    wall_time: float  # seconds since the Unix epoch, at the end of the epoch
    flags: tuple[str, ...] = ()  # e.g. "dev/similarity/pearson is undefined"
    starts_average: bool = False  # weights are averaged from here on: no earlier epoch counts
    ms_per_sentence: float | None = None  # of predicting dev; None: on embeddings that were known


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """The scheduler's decision after an epoch: `epochs/0007.decision.json`."""

    epoch: int
    action: str  # CONTINUE, STOP or PAUSE
    reason: str  # "rung 2: 0.612 below cut-off 0.655 of 14"


@dataclass(frozen=True, slots=True)
class OutcomeRecord(Record):
    """How a trial ended: `outcome.json`, written once (a `stopped` one is replaced on resume)."""

    outcome: Outcome
    reason: str
    epoch: int  # epochs completed
    wall_time: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", Outcome(self.outcome))


@dataclass(frozen=True, slots=True)
class AttemptRecord(Record):
    """The resources one process used for a trial: `attempts/0001.json`, replaced while it runs."""

    host: str
    node_type: str  # of the cluster's file, or "local"
    num_cpus: float
    num_gpus: float
    usd_per_hour: float  # the price of the part of the node that the trial takes
    start_time: float  # seconds since the Unix epoch
    seconds: float  # by the process's own clock, to its last sign of life
    is_over: bool = False  # nothing is added any more


@dataclass(frozen=True, slots=True)
class TrialSnapshot:
    """The part of a trial's folder that is projected onto its MLflow run."""

    record: TrialRecord
    epochs: tuple[EpochRecord, ...]
    outcome: OutcomeRecord | None
    predictions: dict[str, Path]  # artifact path below PREDICTIONS_ARTIFACT -> local file
    weights_uri: str
    kept_epochs: tuple[int, ...]
    attempts: tuple[AttemptRecord, ...] = ()
    system: tuple[tuple[float, dict[str, float]], ...] = ()  # `runs.usage.SystemSample`s


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A tracked trial as MLflow knows it: what `leaderboard` and `ensemble` start from."""

    run_id: str
    trial: str
    sweep: str | None
    status: str
    outcome: Outcome | None
    params: dict[str, str]
    metrics: dict[str, float]  # last value of each
    tags: dict[str, str]

    @property
    def overall(self) -> float:
        """The best overall dev score of any epoch, or NaN when no epoch was completed."""
        return self.metrics.get(f"best/{OVERALL}", float("nan"))


@dataclass(frozen=True)
class Identity:
    """A trial's name, its sweep, and where its configuration came from."""

    trial: str
    sweep: str | None
    recipe: str
    origin: dict[str, str]
    searched: tuple[str, ...] = ()


CONTINUE, STOP, PAUSE = "continue", "stop", "pause"
"""What the scheduler says of a trial. A paused one keeps its checkpoint, and may go on later."""


def is_dev_score(name: str) -> bool:
    """Whether a metric is on dev and the larger the better: any on dev but a loss."""
    return name.startswith("dev/") and not name.endswith("/loss")


def dev_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are maximised: `dev/overall` and each task's own."""
    return {name: value for name, value in metrics.items() if is_dev_score(name)}


def raise_best(best: dict[str, float], record: EpochRecord) -> None:
    """Take what of an epoch's dev metrics is better than before into `best`."""
    if record.starts_average:
        best.clear()
    for key, value in dev_metrics(record.metrics).items():
        best[key] = max(value, best.get(key, value))


def judged_epochs(epochs: Iterable[EpochRecord]) -> list[EpochRecord]:
    """The epochs that a trial is judged by: all, or those of an average once there is one."""
    judged: list[EpochRecord] = []
    for record in sorted(epochs, key=lambda record: record.epoch):
        judged = [record] if record.starts_average else [*judged, record]
    return judged


def best_epoch(
    epochs: Iterable[EpochRecord], metric: str = OVERALL, *, on_dev_train: bool = False
) -> EpochRecord:
    """The judged epoch with the highest `metric`, on all of dev or on its dev-train half alone.

    The earliest wins a tie: what is trained for longer must be better for it.

    Raises:
        ValueError: there is no epoch.
        KeyError: an epoch lacks the metric.
    """

    def score(record: EpochRecord) -> float:
        return (record.dev_train if on_dev_train else record.metrics)[metric]

    return max(judged_epochs(epochs), key=lambda record: (score(record), -record.epoch))
