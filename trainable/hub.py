"""The public data sets from the hub, in the paper's file format: SST-5, QQP, STS-B, AllNLI."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.files import write_atomic
from trainable.tasks import PAPER_TASKS, Split, Task

NUM_NLI_ROWS = 50_000
"""AllNLI rows that are written, as many as the author trained on."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a task's rows stand on the hub, and how a row becomes cells."""

    task: str
    repository: str
    folder: str  # files are looked for below it
    splits: dict[Split, str]  # our split -> a word in the file's name
    columns: tuple[str, ...]  # that a row must have
    cells: Callable[[Row], list[str]]  # sentences, then the label


def _similarity_cells(row: Row) -> list[str]:
    return [row["sentence1"], row["sentence2"], f"{row['score'] * 5:.3f}"]


SOURCES = (
    Source(
        "sentiment",
        "SetFit/sst5",
        "",
        {"train": "train", "dev": "dev", "test": "test"},
        ("text", "label"),
        lambda row: [row["text"], str(row["label"])],
    ),
    Source(
        "paraphrase",
        "nyu-mll/glue",
        "qqp/",
        {"train": "train", "dev": "validation", "test": "test"},
        ("question1", "question2", "label"),
        lambda row: [row["question1"], row["question2"], f"{float(row['label'])}"],
    ),
    Source(
        "similarity",
        "sentence-transformers/stsb",
        "",
        {"train": "train", "dev": "validation", "test": "test"},
        ("sentence1", "sentence2", "score"),
        _similarity_cells,
    ),
    Source(
        "nli",
        "sentence-transformers/all-nli",
        "triplet/",
        {"train": "train"},
        ("anchor", "positive", "negative"),
        lambda row: [row["anchor"], row["positive"], row["negative"]],
    ),
)


def fetch(
    folder: Path, endpoint: str | None = None, report: Callable[[str], None] = lambda line: None
) -> None:
    """Bring every source's splits and write them into `folder`, file by file.

    Args:
        endpoint: the hub's address; None: huggingface_hub's own (`HF_ENDPOINT`).
        report: hears of each file that was written.

    Raises:
        ConfigError: the folder has files already.
        DataError: the hub cannot be reached, or a file or column is not where it was.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", fix="name a new folder")
    for source in SOURCES:
        names = _names(source, endpoint)
        task = PAPER_TASKS[source.task]
        for split, word in source.splits.items():
            rows = _rows(source, names, word, endpoint)
            target = folder / task.files[split]
            text = (
                _json_lines(source, rows)
                if source.task == "nli"
                else _table(source, task, split, rows)
            )
            write_atomic(target, text)
            report(f"{target.name}: from {source.repository}")


def _names(source: Source, endpoint: str | None) -> list[str]:
    try:
        hub = huggingface_hub.HfApi(endpoint=endpoint)
        return list(hub.list_repo_files(source.repository, repo_type="dataset"))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise _unreachable(source, error) from None


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
        try:
            path = huggingface_hub.hf_hub_download(
                source.repository, name, repo_type="dataset", endpoint=endpoint
            )
        except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
            raise _unreachable(source, error) from None
        try:
            rows = _read(Path(path))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{source.repository}/{name}: cannot be read: {error}") from None
        for row in rows:
            missing = [column for column in source.columns if row.get(column) is None]
            if missing:
                raise DataError(
                    f"{source.repository}/{name}: a row has no {', '.join(missing)}; "
                    f"its columns are {', '.join(row)}"
                )
            yield row


def _read(path: Path) -> list[Row]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return list(pq.read_table(path).to_pylist())


def _table(source: Source, task: Task, split: Split, rows: Iterator[Row]) -> str:
    """Tab-separated text with an unnamed index column; a label of -1 means unlabelled."""
    all_cells = [source.cells(row) for row in rows]
    is_unlabelled = all(float(cells[-1]) < 0 for cells in all_cells)
    columns = [*task.columns.sentences, *([] if is_unlabelled else [task.columns.label])]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=task.delimiter, lineterminator="\n")
    writer.writerow(["", task.columns.id, *columns])
    for number, cells in enumerate(all_cells):
        writer.writerow([number, f"{source.task}-{split}-{number}", *cells[: len(columns)]])
    return buffer.getvalue()


def _json_lines(source: Source, rows: Iterator[Row]) -> str:
    lines = [
        json.dumps(source.cells(row)) for row, _ in zip(rows, range(NUM_NLI_ROWS), strict=False)
    ]
    return "\n".join(lines) + "\n"


def _unreachable(source: Source, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(
        f"{source.repository}: cannot be fetched from the hub: {reason}",
        fix="run this where there is a network, without HF_HUB_OFFLINE, and bring the folder along",
    )
