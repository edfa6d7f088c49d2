"""Tracked runs -> candidates with aligned dev predictions, and every run that is not one, and why.

Predictions of other data than most runs have are refused by name, never aligned by guess.

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
"""Runs read at a time from a server: reading is waiting for one file after the other."""


@dataclass(frozen=True)
class Candidate:
    """One epoch of one run: an encoder with its heads, whose weights were kept.

    Or predictions that were added from a file (`ensemble.candidates.external`): they have no
    weights.
    """

    run_id: str
    trial: str
    sweep: str | None
    epoch: int  # 0: added
    weights_uri: str  # of the run: a folder with a folder of weights for each kept epoch; "": added
    num_parameters: int  # 0: not recorded
    encoder: str = ""  # equal where encoders are; "": no other candidate is known to have its
    num_encoder_parameters: int = 0  # of those parameters; 0: not recorded

    def __hash__(self) -> int:
        return hash((self.run_id, self.epoch))  # asked for often

    @property
    def is_added(self) -> bool:
        return not self.weights_uri

    @property
    def key(self) -> str:
        """`sweep.trial.0007`: the same whenever the same trial is tracked; fit for a file name."""
        name = f"{self.trial}.{self.epoch:04d}"
        return f"{self.sweep}.{name}" if self.sweep else name

    @property
    def label(self) -> str:
        """`trial@7`, for people who look at one sweep; the file's name, where added."""
        return self.trial if self.is_added else f"{self.trial}@{self.epoch}"

    @property
    def order(self) -> tuple[bool, int, str, str]:
        """Where scores tie, the lowest is taken: weights, fewer parameters, then the name."""
        return self.is_added, self.num_parameters, self.key, self.run_id


@dataclass(frozen=True)
class Rejected:
    """A run that gives no candidate, or a candidate that is not one
    (`ensemble.candidates.screening`)."""

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
    """What a file of predictions was taken for."""

    candidate: Candidate
    task: str
    form: str  # of its columns, in words


@dataclass(frozen=True, eq=False)
class TaskPool:
    """The candidates of one task and what they put out for its dev rows."""

    task: Task
    data_fingerprint: str
    ids: tuple[str, ...]  # sorted
    labels: NDArray[np.float64]  # [N]
    candidates: tuple[Candidate, ...]  # [M], by `order`: of the runs that have the task
    outputs: NDArray[np.float32]  # [M, N], or logits [M, N, C]
    choosable: NDArray[np.bool_]  # [1 + H, M] by each fold: all of dev, then its halves
    listed: NDArray[np.bool_]  # [M] what equal weights are for; all unless runs are listed

    @cached_property
    def index(self) -> dict[Candidate, int]:
        """Where each candidate is among the M."""
        return {candidate: m for m, candidate in enumerate(self.candidates)}


@dataclass(frozen=True, eq=False)
class Pool:
    """What an ensemble can be chosen from."""

    tasks: dict[str, TaskPool]  # in the order of the first run that has them
    candidates: tuple[Candidate, ...]  # by `order`: those that can be exported
    rejected: tuple[Rejected, ...]  # by trial
    added: tuple[Added, ...] = ()


def labels_of(pool: Pool) -> dict[Candidate, str]:
    """Names for people: `trial@7`, with the sweep before it where there are several."""
    candidates = {candidate for task in pool.tasks.values() for candidate in task.candidates}
    is_one = len({candidate.sweep for candidate in candidates if not candidate.is_added}) < 2
    return {c: c.label if is_one or not c.sweep else f"{c.sweep}/{c.label}" for c in candidates}


def _read_or_reject(
    run: RunRecord, download: Download, seen: dict[DevData, DevData]
) -> RunPredictions | Rejected:
    reason = _state_against(run)
    if reason is None:
        try:
            return read_run(run, download, seen)
        except EnsweepError as error:
            reason = error.problem
    return Rejected(run.run_id, run.trial, reason, run.sweep)


def load_pool(
    runs: Iterable[RunRecord], download: Download, num_readers: int = NUM_READERS
) -> Pool:
    """The candidates of all runs that ended well and have predictions of the same data.

    The order of `runs` changes nothing. Runs that cannot be used are in `rejected`.

    Args:
        num_readers: runs read at a time; threads only wait for each other where files are here.
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
    wanted = _most_common_data(read)
    used: list[tuple[RunPredictions, list[Candidate]]] = []
    for predictions in read:
        differences = [
            f"{name}: {data.difference(wanted[name], 'most runs')}"
            for name, data in predictions.data.items()
            if data != wanted[name]
        ]
        if differences:
            run, reason = predictions.run, "; ".join(differences)
            rejected.append(Rejected(run.run_id, run.trial, reason, run.sweep))
        else:
            used.append((predictions, _candidates(predictions)))
    names = dict.fromkeys(name for predictions, _ in used for name in predictions.tasks)
    return Pool(
        tasks={name: _task_pool(name, wanted[name], used) for name in names},
        candidates=tuple(
            sorted(
                (
                    c
                    for predictions, of_run in used
                    for c in of_run
                    if c.epoch in predictions.epochs
                ),
                key=lambda candidate: candidate.order,
            )
        ),
        rejected=tuple(sorted(rejected, key=lambda r: (r.trial, r.run_id))),
    )


def _state_against(run: RunRecord) -> str | None:
    """Why the run cannot give a candidate, before any of its files is read."""
    if run.outcome is None:
        return "has not ended"
    if run.outcome not in (Outcome.FINISHED, Outcome.PRUNED):
        return f"{run.outcome}: {run.tags.get(Tag.REASON, 'no reason recorded')}"
    if not run.tags.get(Tag.KEPT_EPOCHS):
        return f"{run.outcome}, and no weights were kept"
    if not run.tags.get(Tag.WEIGHTS_URI):
        return f"{run.outcome}, but where its weights are is not recorded"
    return None


def _most_common_data(read: Sequence[RunPredictions]) -> dict[str, DevData]:
    """The data of each task that most runs have; of equals, that of the first run."""
    counts: dict[str, dict[DevData, int]] = defaultdict(lambda: defaultdict(int))
    for predictions in read:
        for name, data in predictions.data.items():
            counts[name][data] += 1
    return {name: max(by_data, key=by_data.__getitem__) for name, by_data in counts.items()}


def _candidates(predictions: RunPredictions) -> list[Candidate]:
    """Candidates: each epoch that all of dev, or a half of it, would choose."""
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
    having = [
        (predictions, candidates) for predictions, candidates in used if name in predictions.tasks
    ]
    rows = sorted(
        (
            (
                candidate,
                predictions.outputs[name][candidate.epoch],
                _choosable(predictions, candidate.epoch),
            )
            for predictions, candidates in having
            for candidate in candidates
        ),
        key=lambda row: row[0].order,
    )
    return TaskPool(
        task=having[0][0].tasks[name],
        data_fingerprint=data.fingerprint,
        ids=data.ids,
        labels=np.array(data.labels),
        candidates=tuple(candidate for candidate, _, _ in rows),
        outputs=np.stack([outputs for _, outputs, _ in rows]),
        choosable=np.array([by for _, _, by in rows]).T,
        listed=np.ones(len(rows), np.bool_),
    )


def _choosable(predictions: RunPredictions, epoch: int) -> list[bool]:
    return [epoch in predictions.epochs, *(epoch in best for best in predictions.best_of_halves)]


def _run_order(run: RunRecord) -> tuple[str, str, str]:
    return run.sweep or "", run.trial, run.run_id
