"""Download of the public data sets SST-5, QQP, STS-B and AllNLI, into the paper's file format."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_setup.errors import DataError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.modes import users_mask
from mlflow_setup.filesystem.output import check_folder, make_folder
from mlflow_setup.text import first_line, is_text, printable
from trainable.config.strict_yaml import read_settings
from trainable.config.tasks import PAPER_TASKS, Split, Task

NUM_NLI_ROWS = 50_000
"""Number of AllNLI rows that are written, as many as the author trained on; a random sample."""

_NLI_SEED = 0

UNLABELLED = -1.0
"""The hub's label of test rows whose labels are hidden."""

_CONVERTED = "refs/convert/parquet"
"""The revision with the hub's own conversion of a data set, which also exists for scripts."""

Row = tuple[list[str], float]  # sentences and label


@dataclass(frozen=True)
class Source:
    """The location and columns of a task's rows on the hub."""

    task: str
    repository: str
    splits: dict[Split, str]  # our split -> a word in the file's name
    sentences: list[str]
    folder: str = ""  # of the files
    label: str | None = None  # None: entailment
    scale: float = 1.0
    form: str = "{}"

    def show_label(self, label: float) -> str:
        """The hub's label, converted to the format of our files."""
        return self.form.format(label * self.scale)


SOURCES = [
    Source(name, **given)
    for name, given in read_settings(Path(__file__).with_suffix(".yaml")).items()
]


def fetch(
    folder: Path, endpoint: str | None = None, report: Callable[[str], None] = lambda line: None
) -> None:
    """Download all splits of all sources, then write them into `folder`.

    Args:
        endpoint: the hub's address; None: huggingface_hub's default (`HF_ENDPOINT`).
        report: called with a line for each downloaded file.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
        DataError: the hub cannot be reached, or a file or column is missing there.
    """
    check_folder(folder, "DIR")
    texts: dict[str, str] = {}
    for source in SOURCES:
        names = _names(source, endpoint)
        task = PAPER_TASKS[source.task]
        for split, word in source.splits.items():
            rows = _rows(source, names, word, endpoint)
            text = _json_lines(rows) if source.label is None else _table(source, task, split, rows)
            texts[task.files[split]] = text
            report(f"{task.files[split]}: from {source.repository}")
    mask = users_mask()
    make_folder(folder)
    for name, text in texts.items():
        write_atomic(folder / name, text, mask)


def hub_files(
    repository: str, choose: Callable[[list[str]], list[str]], endpoint: str | None = None
) -> dict[str, Path]:
    """Download files of a data set on the hub: name -> local path.

    Args:
        choose: selects from the names of all files; if it selects none, it is called again for the
            files of the hub's own conversion to Parquet.

    Raises:
        DataError: the hub cannot be reached, or has no such data set.
    """
    hub = huggingface_hub.HfApi(endpoint=endpoint)
    for revision in (None, _CONVERTED):
        try:
            listed = hub.list_repo_files(repository, repo_type="dataset", revision=revision)
        except Exception as error:  # of the HTTP library, which depends on the version
            raise _unreachable(repository, error) from error
        if files := choose(list(listed)):
            return {name: _download(repository, name, endpoint, revision) for name in files}
    return {}


def _names(source: Source, endpoint: str | None) -> list[str]:
    try:
        hub = huggingface_hub.HfApi(endpoint=endpoint)
        return list(hub.list_repo_files(source.repository, repo_type="dataset"))
    except Exception as error:  # of the HTTP library, which depends on the version
        raise _unreachable(source.repository, error) from error


def _download(
    repository: str, name: str, endpoint: str | None, revision: str | None = None
) -> Path:
    try:
        path = huggingface_hub.hf_hub_download(
            repository, name, repo_type="dataset", endpoint=endpoint, revision=revision
        )
    except Exception as error:  # as above
        raise _unreachable(repository, error) from error
    return Path(path)


def _rows(source: Source, names: list[str], word: str, endpoint: str | None) -> Iterator[Row]:
    matching = sorted(
        name
        for name in names
        if name.startswith(source.folder)
        and name.endswith((".parquet", ".jsonl"))
        and word in name.rpartition("/")[2]
    )
    if not matching:
        raise DataError(f"{source.repository}: no {source.folder}*{word}*.parquet or .jsonl")
    for name in matching:
        where = printable(f"{source.repository}/{name}")
        path = _download(source.repository, name, endpoint)
        try:
            records = _read(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{where}: cannot be read: {error}") from None
        for record in records:
            yield _row(source, record, where)


def _read(path: Path) -> Iterable[Any]:
    if path.suffix == ".jsonl":  # not splitlines(): a sentence may contain U+2028
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    batches = pq.read_table(path).to_batches(max_chunksize=10_000)
    return (record for batch in batches for record in batch.to_pylist())


def _row(source: Source, record: Any, where: str) -> Row:
    """The record's sentences ('' for null) and its label (`UNLABELLED` for null)."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: a row is {record!r:.80}, not an object")
    needed = [*source.sentences, *([] if source.label is None else [source.label])]
    missing = [column for column in needed if column not in record]
    if missing:
        columns = printable(", ".join(record)[:200])
        raise DataError(f"{where}: a row has no {', '.join(missing)}; its columns are {columns}")
    sentences = ["" if record[name] is None else record[name] for name in source.sentences]
    label = None if source.label is None else record[source.label]
    for name, text in zip(source.sentences, sentences, strict=True):
        if not isinstance(text, str) or not is_text(text):
            raise DataError(f"{where}: column {name} has {text!r:.80}, which is not text")
    if not isinstance(label, int | float | None):
        raise DataError(f"{where}: column {source.label} has {label!r:.80}, not a number")
    return sentences, UNLABELLED if label is None else float(label)


def _table(source: Source, task: Task, split: Split, rows: Iterator[Row]) -> str:
    """Tab-separated text with an unnamed index column, and a label column if there are labels."""
    all_rows = list(rows)
    is_labelled = any(label != UNLABELLED for _, label in all_rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=task.delimiter, lineterminator="\n")
    header = ["", task.columns.id, *task.columns.sentences]
    writer.writerow([*header, task.columns.label] if is_labelled else header)
    for number, (sentences, label) in enumerate(all_rows):
        cells = [number, f"{source.task}-{split}-{number}", *sentences]
        writer.writerow([*cells, source.show_label(label)] if is_labelled else cells)
    return buffer.getvalue()


def _json_lines(rows: Iterator[Row]) -> str:
    """A seeded random sample of the rows, as JSON lines."""
    all_rows = [sentences for sentences, _ in rows]
    sample = np.random.default_rng(_NLI_SEED).permutation(len(all_rows))[:NUM_NLI_ROWS]
    return "".join(f"{json.dumps(all_rows[row])}\n" for row in sample)


def _unreachable(repository: str, error: Exception) -> DataError:
    reason = first_line(error)
    return DataError(
        f"{repository}: cannot be downloaded from the hub: {printable(reason)}",
        fix="run this on a machine with a network, without HF_HUB_OFFLINE, and copy the folder",
    )
