"""The prediction file: a model's outputs for all tasks of a split, with a header that identifies
the data.

A Parquet table with the rows of all tasks, one task after the other, and the task's name in each
row; columns that a task does not have are empty. Files that do not match their header or the
expected data are refused; rows are never aligned by guess. Legend: N rows, C classes.

pyarrow is only imported where a file is written or read, as training and evaluation do not need it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import first_line
from trainable.config.tasks import Kind, Output, Split
from trainable.storage.columns import are_distinct, hash_of, ids_of, numbers_of

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
_HEADER = b"ensweep"
_DEV_TRAIN_SALT = "dev-train"


@dataclass(frozen=True)
class Predictions:
    """Raw outputs of one model for every row of one split of one task."""

    task_name: str
    kind: Kind
    split: Split
    ids: tuple[str, ...]
    outputs: NDArray[np.float32]  # logits of classes or labels [N, C], else logits or scores [N]
    labels: NDArray[np.float64] | None  # [N]
    data_fingerprint: str  # of the examples
    tokenizer: str  # fingerprint of the tokenizer and the maximum length

    def __post_init__(self) -> None:
        is_flat = not self.kind.output.has_columns
        if self.outputs.ndim != (1 if is_flat else 2) or len(self.outputs) != len(self.ids):
            raise ValueError(
                f"{self.task_name}: outputs {list(self.outputs.shape)} of a {self.kind} task do "
                f"not fit {len(self.ids)} ids"
            )
        if self.labels is not None and self.labels.shape != (len(self.ids),):
            raise ValueError(
                f"{self.task_name}: labels {list(self.labels.shape)} do not fit {len(self.ids)} ids"
            )

    def write(self, path: Path) -> None:
        """Write a file with these predictions only."""
        write_predictions(path, [self])

    @classmethod
    def read(cls, path: Path, task_name: str | None = None) -> "Predictions":
        """Read the predictions of a task; None: of the only task in the file.

        Raises:
            IntegrityError: as `read_predictions`, or the file does not have the task.
        """
        by_task = read_predictions(path)
        if task_name is None and len(by_task) == 1:
            return next(iter(by_task.values()))
        if task_name not in by_task:
            wanted = "one task" if task_name is None else f"task {task_name!r}"
            raise IntegrityError(f"{path}: predictions of {', '.join(by_task)}, not of {wanted}")
        return by_task[task_name]

    def require(
        self,
        path: Path,
        *,
        task_name: str,
        split: Split,
        data_fingerprint: str,
        tokenizer: str | None = None,
    ) -> None:
        """Check that the predictions, read from `path`, are for this task, split, data and
        tokenizer.

        Raises:
            IntegrityError: they are not; names the file and each difference.
        """
        expected = {
            "task_name": task_name,
            "split": split,
            "data_fingerprint": data_fingerprint,
            "tokenizer": self.tokenizer if tokenizer is None else tokenizer,
        }
        different = [
            f"{name} is {getattr(self, name)!r}, expected {value!r}"
            for name, value in expected.items()
            if getattr(self, name) != value
        ]
        if different:
            raise IntegrityError(f"{path}: predictions for other data: {'; '.join(different)}")

    @classmethod
    def _from_rows(cls, table: "pa.Table", header: dict[str, Any]) -> "Predictions":
        """The predictions of a task, from its rows and its part of the header."""
        kind = Kind(header["kind"])
        names = _output_names(kind, header["num_columns"])
        if not set(names) <= set(table.column_names):
            raise ValueError(f"columns {table.column_names} are not those of a {kind} task")
        columns = [numbers_of(table[name]).astype(np.float32) for name in names]
        has_labels = header["has_labels"] and "label" in table.column_names
        if set(table["task"].unique().to_pylist()) - {header["task"]}:
            raise ValueError("tasks or their order do not match the header")
        if header.get("split") not in get_args(Split):
            raise ValueError(f"there is no split {header.get('split')!r}")
        return cls(
            task_name=str(header["task"]),
            kind=kind,
            split=header["split"],
            ids=ids_of(table["id"]),
            outputs=np.stack(columns, axis=1) if kind.output.has_columns else columns[0],
            labels=numbers_of(table["label"]).astype(np.float64) if has_labels else None,
            data_fingerprint=str(header["data_fingerprint"]),
            tokenizer=str(header["tokenizer"]),
        )

    def _check(self, header: dict[str, Any]) -> None:
        if not are_distinct(self.ids):
            raise ValueError("IDs are duplicated")
        expected = self._header()
        if header["ids_sha256"] != expected["ids_sha256"]:
            raise ValueError("IDs or their order do not match the header")
        if header != expected:
            raise ValueError("outputs, labels or header were changed after writing")

    def _header(self) -> dict[str, Any]:
        header = {
            "task": self.task_name,
            "kind": self.kind.value,
            "split": self.split,
            "data_fingerprint": self.data_fingerprint,
            "tokenizer": self.tokenizer,
            "num_rows": len(self.ids),
            "num_columns": 1 if self.outputs.ndim == 1 else self.outputs.shape[1],
            "has_labels": self.labels is not None,
            "ids_sha256": hash_of(self.ids),
        }
        return {**header, "content_sha256": self._content_hash(header)}

    def _content_hash(self, header: dict[str, Any]) -> str:
        """A hash of the rest of the header (with the hash of the IDs), the outputs and the
        labels."""
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.outputs, "<f4").tobytes())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<f8").tobytes())
        return digest.hexdigest()


def write_predictions(path: Path, predictions: Sequence[Predictions]) -> None:
    """Write the predictions of several tasks as one Parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "task": np.repeat(
            [each.task_name for each in predictions], [len(each.ids) for each in predictions]
        ),
        "id": [id_ for each in predictions for id_ in each.ids],
    }
    if any(each.labels is not None for each in predictions):
        columns["label"] = _column([each.labels for each in predictions], predictions, np.float64)
    outputs = [_output_columns(each) for each in predictions]
    for name in sorted({name for each in outputs for name in each}, key=_column_order):
        columns[name] = _column([each.get(name) for each in outputs], predictions, np.float32)
    header = {"version": VERSION, "parts": [each._header() for each in predictions]}
    table = pa.table(columns).replace_schema_metadata({_HEADER: json.dumps(header).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Read a file, by task, and check it against its header.

    Raises:
        IntegrityError: missing, not Parquet, without a header, or rows that do not match it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # From bytes, because with a path, Parquet readers also accept folders and URIs. Without
        # threads, whose start takes longer than reading a few thousand rows.
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
        by_task, start = {}, 0
        for part in _parts_of(table):
            rows = table.slice(start, part["num_rows"])
            start += part["num_rows"]
            by_task[part["task"]] = predictions = Predictions._from_rows(rows, part)
            predictions._check(part)
    except (pa.ArrowException, *_UNREADABLE) as error:
        reason = repr(error) if isinstance(error, KeyError) else first_line(error)
        raise IntegrityError(
            f"{path}: not a prediction file, or damaged: {reason[:300]}",
            fix="restore the file, or leave its run out",
        ) from None
    return by_task


def _output_columns(predictions: Predictions) -> dict[str, NDArray[np.float32]]:
    """Name -> column [N] of the outputs."""
    outputs = predictions.outputs
    columns = list(outputs.T if outputs.ndim == 2 else outputs[None])
    return dict(zip(_output_names(predictions.kind, len(columns)), columns, strict=True))


def _column(
    values: Sequence[NDArray[Any] | None], predictions: Sequence[Predictions], dtype: Any
) -> NDArray[Any]:
    """One column for the rows of all tasks, with NaN for a task without values."""
    parts = [
        np.full(len(each.ids), np.nan, dtype) if own is None else own
        for own, each in zip(values, predictions, strict=True)
    ]
    return np.concatenate(parts).astype(dtype)


def dev_train_mask(ids: tuple[str, ...], split: int = 0) -> NDArray[np.bool_]:
    """Mask [N] of the rows that belong to dev-train, the half of dev on which choices are made.

    It depends only on a salted hash of each row's ID, not on the order or the other rows.

    Args:
        split: number of the split; each number gives different halves.
    """
    salt = _DEV_TRAIN_SALT if split == 0 else f"{_DEV_TRAIN_SALT} {split}"
    return np.fromiter(
        (hashlib.sha256(f"{salt}\0{id_}".encode()).digest()[0] % 2 == 0 for id_ in ids),
        dtype=np.bool_,
        count=len(ids),
    )


_UNREADABLE = (OSError, KeyError, TypeError, ValueError, RecursionError)
"""Errors, besides Arrow's, that readers raise for files that are not prediction files."""


def _parts_of(table: "pa.Table") -> list[dict[str, Any]]:
    """The header's parts, one per task; together they cover all rows of the table."""
    header = json.loads((table.schema.metadata or {}).get(_HEADER, b"null"))
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    if header.get("version") != VERSION:
        raise ValueError(f"its version is {header.get('version')!r}, expected {VERSION}")
    parts: list[dict[str, Any]] = header["parts"]
    num_rows = sum(part["num_rows"] for part in parts)
    if num_rows != table.num_rows or any(part["num_rows"] < 0 for part in parts):
        raise ValueError(f"{table.num_rows} rows, its header says {num_rows}")
    if len({part["task"] for part in parts}) < len(parts):
        raise ValueError("a task occurs twice in its header")
    return parts


def _output_names(kind: Kind, count: int) -> list[str]:
    if kind.output.has_columns:
        return [f"logit_{c}" for c in range(count)]
    return ["logit"] if kind.output is Output.BINARY else ["score"]


def _column_order(name: str) -> tuple[str, int]:
    word, _, number = name.partition("_")
    return word, int(number or -1)
