"""The schema that the packages share: names used in MLflow, and the records of a trial.

Does not import mlflow. A trial's folder (`trainable.storage.trial_folder`) holds these records as
JSON; `runs/sweep_run.py` writes them to an MLflow run; `runs/query.py` reads that run back as a
`RunRecord`.
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
"""Name of the sweep that holds the runs of `ensweep train`. It counts as the latest sweep only
where there is no other."""

OVERALL = "dev/overall"
"""The objective of a sweep: the mean of the trained tasks' primary metrics, in [0, 1]."""


def version_problem(version: object, known: int) -> str | None:
    """The error message for a file whose schema version is not `known`; None if it is."""
    if version == known:
        return None
    return (
        f"its schema version is {version!r:.20}, of another release, and this one reads {known}: "
        "read it with that release, or create it again"
    )


class Tag(StrEnum):
    """MLflow tags. A run is looked up by `KIND`, `SWEEP` and `TRIAL`, never by a stored run id."""

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
    CHOICE = "choice"  # on an ensemble's run: digest of the choice of members
    SEARCHED = "searched"  # on a sweep's run: dotted names, comma-separated
    BASELINES = "baselines"  # on a sweep's run: recipes, comma-separated
    PLANNED = "planned"  # on the experiment: when `ensweep plan` last tested that it is writable


class RunKind(StrEnum):
    SWEEP = "sweep"
    TRIAL = "trial"
    ENSEMBLE = "ensemble"


class Outcome(StrEnum):
    """How a trial ended. Every reader handles each of these."""

    FINISHED = "finished"  # ran all its epochs
    PRUNED = "pruned"  # stopped by the scheduler
    DIVERGED = "diverged"  # a loss or metric was not finite
    FAILED = "failed"  # an error, after its retries
    STOPPED = "stopped"  # by the user, a signal or a limit; resumable

    @property
    def is_terminal(self) -> bool:
        """Whether the trial cannot be resumed: true of all but `stopped`."""
        return self is not Outcome.STOPPED


def state_of(outcome: Outcome | None) -> str:
    """The outcome as text; `running` for None."""
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
"""The data fingerprint of a trial that failed before it had read its data."""

CONFIG_ARTIFACT = "config.json"
PREDICTIONS_ARTIFACT = "predictions"


def metric_name(split: str, task: str, metric: str) -> str:
    """The full name of a metric: `dev/sentiment/accuracy`, `train/sentiment/loss`."""
    return f"{split}/{task}/{metric}"


def prediction_path(epoch: int) -> str:
    """`0007.parquet`: the file with all tasks' predictions after an epoch, below `predictions` in
    the trial's folder and in the run's artifacts."""
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
        problem = version_problem(self.schema_version, SCHEMA_VERSION)
        if problem is not None:
            raise ValueError(problem)


@dataclass(frozen=True, slots=True)
class EpochRecord(Record):
    """An epoch's metrics: `epochs/0007.json`, written once. Epochs count from 1."""

    epoch: int
    metrics: dict[str, float]  # finite; metric_name(...) -> value
    dev_train: dict[str, float]  # the same dev metrics, on the dev-train half only
    seconds: float
    wall_time: float  # seconds since the Unix epoch, at the end of the epoch
    flags: tuple[str, ...] = ()  # e.g. "dev/similarity/pearson is undefined"
    starts_average: bool = False  # weight averaging begins here: earlier epochs no longer count
    ms_per_sentence: float | None = None  # to predict dev; None: embeddings came from the cache


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """The scheduler's decision after an epoch: `epochs/0007.decision.json`."""

    epoch: int
    action: str  # CONTINUE, STOP or PAUSE
    reason: str  # "rung 2: 0.612 below cut-off 0.655 of 14"


@dataclass(frozen=True, slots=True)
class OutcomeRecord(Record):
    """How a trial ended: `outcome.json`, written once (`stopped` is replaced on resume)."""

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
    usd_per_hour: float  # the price of the trial's share of the node
    start_time: float  # seconds since the Unix epoch
    seconds: float  # from the start to the last heartbeat, by the process's own clock
    is_over: bool = False  # the record is final


@dataclass(frozen=True, slots=True)
class TrialSnapshot:
    """The part of a trial's folder that is written to its MLflow run."""

    record: TrialRecord
    epochs: tuple[EpochRecord, ...]
    outcome: OutcomeRecord | None
    predictions: dict[str, Path]  # artifact path below PREDICTIONS_ARTIFACT -> local file
    weights_uri: str
    kept_epochs: tuple[int, ...]
    attempts: tuple[AttemptRecord, ...] = ()
    system: tuple[tuple[float, dict[str, float]], ...] = ()  # see `runs.usage.SystemSample`


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A trial's MLflow run, as `leaderboard` and `ensemble` read it."""

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
"""The scheduler's decisions. A paused trial keeps its checkpoint and may continue later."""


def is_dev_score(name: str) -> bool:
    """Whether a metric is measured on dev and maximised: every dev metric except a loss."""
    return name.startswith("dev/") and not name.endswith("/loss")


def dev_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are maximised: `dev/overall` and each task's."""
    return {name: value for name, value in metrics.items() if is_dev_score(name)}


def update_best(best: dict[str, float], record: EpochRecord) -> None:
    """Update `best` (dev metric -> highest value so far) in place with an epoch's dev metrics."""
    if record.starts_average:
        best.clear()
    for key, value in dev_metrics(record.metrics).items():
        best[key] = max(value, best.get(key, value))


def eligible_epochs(epochs: Iterable[EpochRecord]) -> list[EpochRecord]:
    """The epochs that count towards a trial's best: all, or only those with averaged weights if
    the weights were averaged. In order."""
    eligible: list[EpochRecord] = []
    for record in sorted(epochs, key=lambda record: record.epoch):
        eligible = [record] if record.starts_average else [*eligible, record]
    return eligible


def best_epoch(
    epochs: Iterable[EpochRecord], metric: str = OVERALL, *, on_dev_train: bool = False
) -> EpochRecord:
    """The eligible epoch with the highest `metric`, on all of dev or on its dev-train half only.
    The earliest wins a tie.

    Raises:
        ValueError: there are no epochs.
        KeyError: an epoch lacks the metric.
    """

    def score(record: EpochRecord) -> float:
        return (record.dev_train if on_dev_train else record.metrics)[metric]

    return max(eligible_epochs(epochs), key=lambda record: (score(record), -record.epoch))
