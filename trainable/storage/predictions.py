"""The prediction file: outputs for one task and split, with a header that says what they are of.

A file that is not what its header says, or not of the wanted data, is refused by name; rows are
never aligned by guess. Legend: N rows, C classes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import first_line
from trainable.config.tasks import Kind, Output, Split

VERSION = 1
_HEADER = b"ensweep"
_DEV_TRAIN_SALT = "dev-train"


@dataclass(frozen=True)
class Predictions:
    """Raw outputs of one model for every row of one split of one task."""

    task_name: str
    kind: Kind
    split: Split
    ids: tuple[str, ...]
    outputs: NDArray[np.float32]  # logits [N, C] of classes or labels, one logit or score [N] else
    labels: NDArray[np.float64] | None  # [N]
    data_fingerprint: str  # of the examples
    tokenizer: str  # fingerprint of the tokenizer and maximum length

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
        """Write the file as Parquet, whole or not at all."""
        columns: dict[str, Any] = {"id": list(self.ids)}
        if self.labels is not None:
            columns["label"] = self.labels
        planes = self.outputs.T if self.outputs.ndim == 2 else self.outputs[None]
        columns |= dict(zip(_output_names(self.kind, len(planes)), planes, strict=True))
        header = json.dumps(self._header()).encode()
        table = pa.table(columns).replace_schema_metadata({_HEADER: header})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_atomic(path, sink.getvalue().to_pybytes())

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read a file and prove that it is what its header says.

        Raises:
            IntegrityError: not there, not Parquet, no header, or rows that do not match it.
        """
        try:
            # From bytes: given a path, Parquet readers also take folders and URIs.
            table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()
            header = _header_of(table)
            predictions = cls._from_table(table, header)
            predictions._check(header)
        except _UNREADABLE as error:
            reason = repr(error) if isinstance(error, KeyError) else first_line(error)
            raise IntegrityError(
                f"{path}: not a prediction file as it was written: {reason[:300]}",
                fix="restore the file, or leave its run out",
            ) from None
        return predictions

    def require(
        self,
        path: Path,
        *,
        task_name: str,
        split: Split,
        data_fingerprint: str,
        tokenizer: str | None = None,
    ) -> None:
        """Prove that the file at `path` is of the wanted task, split, data and tokenizer.

        Raises:
            IntegrityError: naming the file and each difference.
        """
        wanted = {
            "task_name": task_name,
            "split": split,
            "data_fingerprint": data_fingerprint,
            "tokenizer": self.tokenizer if tokenizer is None else tokenizer,
        }
        different = [
            f"{name} is {getattr(self, name)!r}, expected {value!r}"
            for name, value in wanted.items()
            if getattr(self, name) != value
        ]
        if different:
            raise IntegrityError(f"{path}: predictions of something else: {'; '.join(different)}")

    @classmethod
    def _from_table(cls, table: pa.Table, header: dict[str, Any]) -> "Predictions":
        kind = Kind(header["kind"])
        names = [name for name in table.column_names if name not in ("id", "label")]
        if names != _output_names(kind, len(names)):
            raise ValueError(f"columns {table.column_names} are not those of a {kind} task")
        ids = tuple(table["id"].to_pylist())
        if not all(isinstance(id_, str) for id_ in ids):
            raise ValueError("an id is not text")
        planes = [table[name].to_numpy().astype(np.float32) for name in names]
        has_labels = "label" in table.column_names
        return cls(
            task_name=str(header["task"]),
            kind=kind,
            split=header["split"],
            ids=ids,
            outputs=np.stack(planes, axis=1) if kind.output.has_columns else planes[0],
            labels=table["label"].to_numpy().astype(np.float64) if has_labels else None,
            data_fingerprint=str(header["data_fingerprint"]),
            tokenizer=str(header["tokenizer"]),
        )

    def _check(self, header: dict[str, Any]) -> None:
        if len(self.ids) != header["num_rows"]:
            raise ValueError(f"{len(self.ids)} rows, its header says {header['num_rows']}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("ids are duplicated")
        expected = self._header()
        if header["ids_sha256"] != expected["ids_sha256"]:
            raise ValueError("ids are not those of its header, or in another order")
        if header != expected:
            raise ValueError("outputs, labels or header were changed after writing")

    def _header(self) -> dict[str, Any]:
        header = {
            "version": VERSION,
            "task": self.task_name,
            "kind": self.kind.value,
            "split": self.split,
            "data_fingerprint": self.data_fingerprint,
            "tokenizer": self.tokenizer,
            "num_rows": len(self.ids),
            "ids_sha256": hashlib.sha256(json.dumps(self.ids).encode()).hexdigest(),
        }
        return {**header, "content_sha256": self._content_hash(header)}

    def _content_hash(self, header: dict[str, Any]) -> str:
        """Of the rest of the header (which holds the ids' hash), the outputs and the labels."""
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.outputs, "<f4").tobytes())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<f8").tobytes())
        return digest.hexdigest()


def dev_train_mask(ids: tuple[str, ...], split: int = 0) -> NDArray[np.bool_]:
    """Which rows belong to dev-train, the half of dev that choices are made on, [N].

    A salted hash of the id decides, so a row is on the same side whatever the order or the set.

    Args:
        split: other numbers cut dev in two in other ways.
    """
    salt = _DEV_TRAIN_SALT if split == 0 else f"{_DEV_TRAIN_SALT} {split}"
    return np.fromiter(
        (hashlib.sha256(f"{salt}\0{id_}".encode()).digest()[0] % 2 == 0 for id_ in ids),
        dtype=np.bool_,
        count=len(ids),
    )


_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError)
"""What files that are no prediction files make the readers raise."""


def _header_of(table: pa.Table) -> dict[str, Any]:
    header = json.loads((table.schema.metadata or {}).get(_HEADER, b"null"))
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    if header.get("version") != VERSION:
        raise ValueError(f"its version is {header.get('version')!r}, expected {VERSION}")
    if header.get("split") not in get_args(Split):
        raise ValueError(f"there is no split {header.get('split')!r}")
    return header


def _output_names(kind: Kind, count: int) -> list[str]:
    if kind.output.has_columns:
        return [f"logit_{c}" for c in range(count)]
    return ["logit"] if kind.output is Output.BINARY else ["score"]
