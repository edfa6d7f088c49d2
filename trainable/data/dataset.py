"""The data of a trial: training and dev examples, validated, subsampled and fingerprinted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlflow_setup.errors import DataError
from mlflow_setup.text import short_hash
from mlflow_setup.uris import is_uri
from trainable.config.config import Config
from trainable.config.tasks import Split, Task
from trainable.data.defects import Defect, describe
from trainable.data.examples import Examples
from trainable.data.inputs import Source, prove_examples, source_of
from trainable.data.readers import read_split
from trainable.data.remote import data_folder
from trainable.runtime.seeding import generator

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
MIN_DEV_ROWS = 20
"""Number of dev rows below which `data check` warns: a few runs have as many candidates."""


@dataclass(frozen=True)
class Dataset:
    """The training and dev examples of a trial."""

    tasks: dict[str, Task]
    train: dict[str, Examples]
    dev: dict[str, Examples]  # of the tasks with a metric
    skipped: dict[str, int]  # "quora-train.csv D07" -> number of skipped rows
    fingerprint: str
    sources: Mapping[Source, str] = field(default_factory=dict)
    """Fingerprint of all valid rows of each file that was read, before subsampling."""


def read_dataset(config: Config) -> Dataset:
    """Read, validate and subsample the data of `config.data`.

    Raises:
        DataError: the first 20 errors; with `data.on_bad_rows=skip`, only those that are not of
            single rows.
        ChangedInputError: the data has changed since the sweep began.
        ConfigError, PartialError: as `trainable.data.remote.fetched`, if `data.dir` is a URI.
    """
    if not config.data.dir:
        raise DataError("data.dir is not set", fix="name the folder: --data-dir DIR")
    tasks, folder = config.task_records(), data_folder(config.data.dir)
    shown_dir = config.data.dir if is_uri(config.data.dir) else folder
    train, dev, defects = {}, {}, []
    for name, task in tasks.items():
        train[name], new_defects = read_split(name, task, "train", folder)
        defects += new_defects
        if task.is_evaluated:
            dev[name], new_defects = read_split(name, task, "dev", folder)
            defects += new_defects
    errors = [defect for defect in defects if defect.severity == "error"]
    fatal = [defect for defect in errors if not defect.is_of_row]
    if fatal or (errors and config.data.on_bad_rows == "error"):
        shown = fatal or errors
        raise DataError(
            f"{shown_dir}: {len(shown)} error(s) in the data:\n  {describe(shown)}",
            fix=f"ensweep data check {shown_dir} lists all of them",
        )
    for examples in (*train.values(), *dev.values()):
        if not len(examples):
            raise DataError(f"{shown_dir}: {examples.task_name} has no valid {examples.split} row")
    rows = {(defect.file, defect.line): defect.code for defect in errors}
    skipped = Counter(f"{file} {code}" for (file, _), code in rows.items())
    sources = {
        source_of(config.data.dir, each.task_name, each.task, each.split): each.fingerprint
        for each in (*train.values(), *dev.values())
    }
    prove_examples(sources)
    train = {name: _subsample(examples, config) for name, examples in train.items()}
    fingerprint = short_hash(*(each.fingerprint for each in (*train.values(), *dev.values())))
    return Dataset(tasks, train, dev, dict(skipped), fingerprint, sources)


def read_directory(
    data_dir: Path, tasks: Mapping[str, Task]
) -> tuple[list[Examples], list[Defect]]:
    """The valid rows of all files of the tasks, and all defects, including rows that occur in two
    splits. A missing test file is not a defect.
    """
    parts: list[Examples] = []
    defects: list[Defect] = []
    for name, task in tasks.items():
        seen: dict[tuple[str, ...], Split] = {}
        for split in SPLITS:
            if split not in task.files:
                continue
            if split == "test" and not (data_dir / task.files[split]).exists():
                continue
            examples, row_defects = read_split(name, task, split, data_dir)
            defects += row_defects + _overlaps(examples, seen) + _uninformative(examples)
            parts.append(examples)
    return parts, defects


def _overlaps(examples: Examples, seen: dict[tuple[str, ...], Split]) -> list[Defect]:
    """Warnings for rows whose sentences occur in an earlier split; adds this split's rows to
    `seen`."""
    rows = list(zip(*examples.sentences, strict=True))
    file, column = examples.task.files[examples.split], examples.task.columns.sentences[0]
    overlaps = [
        Defect(
            "D23",
            "warning",
            file,
            0,
            column,
            row[0][:200],
            f"id {id_}: its text also occurs in {seen[row]}",
        )
        for id_, row in zip(examples.ids, rows, strict=True)
        if row in seen
    ]
    for row in rows:
        seen.setdefault(row, examples.split)
    return overlaps


def _uninformative(examples: Examples) -> list[Defect]:
    """Warnings for constant labels, and for a dev set that is too small for meaningful scores."""
    labels, file = examples.labels, examples.task.files[examples.split]
    findings: list[tuple[str, str, str]] = []
    if labels is not None and len(labels) and np.ptp(labels) == 0:
        column = examples.task.columns.label
        findings.append(
            ("D26", column, f"all {len(labels)} labels are {examples.task.show(labels[0])}")
        )
    if examples.split == "dev" and 0 < len(examples) < MIN_DEV_ROWS:
        message = f"{len(examples)} rows: an ensemble may have as many members"
        findings.append(("D27", "", message))
    return [Defect(code, "warning", file, 0, column, "", text) for code, column, text in findings]


def _subsample(examples: Examples, config: Config) -> Examples:
    """A seeded sample by `train_fraction` and `max_train_examples`, in the order of the file."""
    num_rows = max(1, round(len(examples) * config.data.train_fraction))
    if config.data.max_train_examples is not None:
        num_rows = min(num_rows, config.data.max_train_examples)
    if num_rows >= len(examples):
        return examples
    order = generator(config.seed, "subsample", examples.task_name).permutation(len(examples))
    return examples.take(np.sort(order[:num_rows]))
