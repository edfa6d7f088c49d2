"""Turns tracked runs into candidates with aligned dev predictions; rejected runs have a reason.

Runs whose predictions are of other data than those of most runs are rejected.

Legend: M candidates, N rows, C classes, H halves.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.run_predictions import DevData, Download, RunPredictions, read_run
from mlflow_setup.errors import EnsweepError
from mlflow_setup.schema import Outcome, RunRecord, Tag
from trainable.config.tasks import Task
from trainable.runtime.progress import Tally

NUM_READERS = 16
"""Runs read in parallel from a server: most of the time is spent waiting for files."""


@dataclass(frozen=True)
class Candidate:
    """One epoch of one run, with its weights: an encoder and its heads.

    Or predictions added from a file (`ensemble.candidates.external`), without weights.
    """

    run_id: str
    trial: str
    sweep: str | None
    epoch: int  # 0: added from a file
    weights_uri: str  # the run's folder with one folder of weights per epoch; "": added from a file
    num_parameters: int  # 0: not recorded
    encoder: str = ""  # the same for candidates with the same encoder; "": the encoder is its own
    num_encoder_parameters: int = 0  # included in `num_parameters`; 0: not recorded

    def __hash__(self) -> int:
        return hash((self.run_id, self.epoch))  # faster than over all fields: called often

    @property
    def is_added(self) -> bool:
        """Whether it was added from a file, without weights."""
        return not self.weights_uri

    @property
    def key(self) -> str:
        """`sweep.trial.0007`: the same in every tracking store, and valid as a file name."""
        name = f"{self.trial}.{self.epoch:04d}"
        return f"{self.sweep}.{name}" if self.sweep else name

    @property
    def label(self) -> str:
        """`trial@7`, for display; the name of the file, if added from one."""
        return self.trial if self.is_added else f"{self.trial}@{self.epoch}"

    @property
    def order(self) -> tuple[bool, int, str, str]:
        """A sort key: where scores tie, the candidate with the lowest wins. Candidates with
        weights come first, then those with fewer parameters, then by name."""
        return self.is_added, self.num_parameters, self.key, self.run_id


@dataclass(frozen=True)
class Rejected:
    """A run without candidates, or a candidate removed by `ensemble.candidates.screening`."""

    run_id: str
    trial: str
    reason: str
    sweep: str | None = None
    epoch: int | None = None  # None: the whole run

    @property
    def label(self) -> str:
        return self.trial if not self.epoch else f"{self.trial}@{self.epoch}"


@dataclass(frozen=True)
class Added:
    """A candidate added from a file."""

    candidate: Candidate
    task: str
    form: str  # a description of what the file holds


@dataclass(frozen=True, eq=False)
class TaskPool:
    """The candidates of one task and their outputs on its dev rows."""

    task: Task
    data_fingerprint: str
    ids: tuple[str, ...]  # sorted
    labels: NDArray[np.float64]  # [N]
    candidates: tuple[Candidate, ...]  # [M] sorted by `order`
    outputs: NDArray[np.float32]  # [M, N], or logits [M, N, C]
    choosable: NDArray[np.bool_]  # [1 + H, M] in each fold: all of dev, then the halves
    listed: NDArray[np.bool_]  # [M] of runs listed by the user (`--runs`); all where none is

    @cached_property
    def index(self) -> dict[Candidate, int]:
        """The index of each candidate in `candidates`."""
        return {candidate: m for m, candidate in enumerate(self.candidates)}


@dataclass(frozen=True, eq=False)
class Pool:
    """The candidates that an ensemble is chosen from."""

    tasks: dict[str, TaskPool]  # in the order of the first run that has them
    candidates: tuple[Candidate, ...]  # sorted by `order`; those that can be exported
    rejected: tuple[Rejected, ...]  # sorted by trial
    added: tuple[Added, ...] = ()


def labels_of(pool: Pool) -> dict[Candidate, str]:
    """Return a display name for each candidate: `trial@7`, or `sweep/trial@7` if there are several
    sweeps."""
    candidates = {candidate for task in pool.tasks.values() for candidate in task.candidates}
    is_one = len({candidate.sweep for candidate in candidates if not candidate.is_added}) < 2
    return {c: c.label if is_one or not c.sweep else f"{c.sweep}/{c.label}" for c in candidates}


def _read_or_reject(
    run: RunRecord, download: Download, seen: dict[DevData, DevData]
) -> RunPredictions | Rejected:
    reason = _why_unusable(run)
    if reason is None:
        try:
            return read_run(run, download, seen)
        except EnsweepError as error:
            reason = error.problem
    return Rejected(run.run_id, run.trial, reason, run.sweep)


def load_pool(
    runs: Iterable[RunRecord], download: Download, num_readers: int = NUM_READERS
) -> Pool:
    """Return the candidates of all runs that finished or were pruned and have predictions of the
    same data; other runs are in `rejected`. The order of `runs` does not matter.

    Args:
        num_readers: runs read in parallel; 1 is fastest for local files.
    """
    seen: dict[DevData, DevData] = {}
    ordered = sorted({run.run_id: run for run in runs}.values(), key=_run_order)
    tally, loaded = Tally("reading runs' predictions", len(ordered)), []
    with ThreadPoolExecutor(num_readers) as threads:
        for each in threads.map(lambda run: _read_or_reject(run, download, seen), ordered):
            loaded.append(each)
            tally.add()
    rejected = [each for each in loaded if isinstance(each, Rejected)]
    read = [each for each in loaded if isinstance(each, RunPredictions)]
    expected = _most_common_data(read)
    used: list[tuple[RunPredictions, list[Candidate]]] = []
    for predictions in read:
        differences = [
            f"{name}: {data.difference(expected[name], 'most runs')}"
            for name, data in predictions.data.items()
            if data != expected[name]
        ]
        if differences:
            run, reason = predictions.run, "; ".join(differences)
            rejected.append(Rejected(run.run_id, run.trial, reason, run.sweep))
        else:
            used.append((predictions, _candidates(predictions)))
    names = dict.fromkeys(name for predictions, _ in used for name in predictions.tasks)
    exportable = [
        candidate
        for predictions, of_run in used
        for candidate in of_run
        if candidate.epoch in predictions.epochs
    ]
    return Pool(
        tasks={name: _task_pool(name, expected[name], used) for name in names},
        candidates=tuple(sorted(exportable, key=lambda candidate: candidate.order)),
        rejected=tuple(sorted(rejected, key=lambda r: (r.trial, r.run_id))),
    )


def _why_unusable(run: RunRecord) -> str | None:
    """Return why the run can have no candidate, from its record alone; None: it may have some."""
    if run.outcome is None:
        return "has not ended"
    if run.outcome not in (Outcome.FINISHED, Outcome.PRUNED):
        return f"{run.outcome}: {run.tags.get(Tag.REASON, 'no reason recorded')}"
    if not run.tags.get(Tag.KEPT_EPOCHS):
        return f"{run.outcome}, but no weights were kept"
    if not run.tags.get(Tag.WEIGHTS_URI):
        return f"{run.outcome}, but the location of its weights is not recorded"
    return None


def _most_common_data(read: Sequence[RunPredictions]) -> dict[str, DevData]:
    """Return the data of each task that most runs have; ties go to the first run."""
    counts: dict[str, dict[DevData, int]] = defaultdict(lambda: defaultdict(int))
    for predictions in read:
        for name, data in predictions.data.items():
            counts[name][data] += 1
    return {name: max(by_data, key=by_data.__getitem__) for name, by_data in counts.items()}


def _candidates(predictions: RunPredictions) -> list[Candidate]:
    """Return a candidate for each epoch that is best on all of dev or on one of the halves."""
    return [
        Candidate(
            run_id=predictions.run.run_id,
            trial=predictions.run.trial,
            sweep=predictions.run.sweep,
            epoch=epoch,
            weights_uri=predictions.run.tags[Tag.WEIGHTS_URI],
            num_parameters=predictions.num_parameters,
            encoder=predictions.frozen_encoder if epoch <= predictions.num_frozen_epochs else "",
            num_encoder_parameters=predictions.num_encoder_parameters,
        )
        for epoch in sorted(set(predictions.epochs).union(*predictions.best_of_halves))
    ]


def _task_pool(
    name: str, data: DevData, used: Sequence[tuple[RunPredictions, list[Candidate]]]
) -> TaskPool:
    rows = sorted(
        (
            (candidate, predictions)
            for predictions, candidates in used
            for candidate in candidates
            if name in predictions.tasks
        ),
        key=lambda row: row[0].order,
    )
    first = next(predictions for predictions, _ in used if name in predictions.tasks)
    return TaskPool(
        task=first.tasks[name],
        data_fingerprint=data.fingerprint,
        ids=data.ids,
        labels=np.array(data.labels),
        candidates=tuple(candidate for candidate, _ in rows),
        outputs=np.stack([p.outputs[name][candidate.epoch] for candidate, p in rows]),
        choosable=np.array([_choosable(p, candidate.epoch) for candidate, p in rows]).T,
        listed=np.ones(len(rows), np.bool_),
    )


def _choosable(predictions: RunPredictions, epoch: int) -> list[bool]:
    """[1 + H] whether all of dev, then each half, may choose the epoch."""
    return [epoch in predictions.epochs, *(epoch in best for best in predictions.best_of_halves)]


def _run_order(run: RunRecord) -> tuple[str, str, str]:
    return run.sweep or "", run.trial, run.run_id
