"""Reading the columns of prediction files. IDs are cached, because thousands of files have the same
ones.

Legend: N rows.
"""

import hashlib
import json
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

_recent: "deque[tuple[pa.ChunkedArray, tuple[str, ...]]]" = deque(maxlen=16)
"""Cache of the latest ID columns, as Arrow arrays and as tuples."""


def numbers_of(column: "pa.ChunkedArray") -> NDArray[Any]:
    """The numbers of a column, [N].

    Raises:
        ValueError: the column is not numeric.
        pyarrow.ArrowException: a value is missing.
    """
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(f"a column has {column.type} instead of numbers")
    return np.from_dlpack(column.combine_chunks())  # `to_numpy` would import pandas


def ids_of(column: "pa.ChunkedArray") -> tuple[str, ...]:
    """The IDs of a column, [N]; the cached tuple if an earlier file had the same ones.

    Raises:
        ValueError: an ID is not text.
    """
    for known, ids in list(_recent):
        if known.equals(column):
            return ids
    if len(column) and (str(column.type) not in ("string", "large_string") or column.null_count):
        raise ValueError("an ID is not text")
    ids = tuple(column.to_pylist())
    _recent.append((column, ids))
    return ids


def are_distinct(ids: tuple[str, ...]) -> bool:
    """Whether no two IDs are equal."""
    return _is_distinct_and_hash(ids)[0]


def hash_of(ids: tuple[str, ...]) -> str:
    """The SHA-256 of the IDs, in order."""
    return _is_distinct_and_hash(ids)[1]


@lru_cache(maxsize=16)
def _is_distinct_and_hash(ids: tuple[str, ...]) -> tuple[bool, str]:
    return len(set(ids)) == len(ids), hashlib.sha256(json.dumps(ids).encode()).hexdigest()
