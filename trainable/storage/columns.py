"""Columns of prediction files as numbers and ids: what thousands of files have in common is made
once.

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
"""Columns and the ids that they hold, of a few tasks."""


def numbers_of(column: "pa.ChunkedArray") -> NDArray[Any]:
    """[N] not by `to_numpy`, which loads pandas.

    Raises:
        ValueError: there is something else in it.
        pyarrow.ArrowException: a row has none.
    """
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(f"{column.type} in place of numbers")
    return np.from_dlpack(column.combine_chunks())


def ids_of(column: "pa.ChunkedArray") -> tuple[str, ...]:
    """[N]; where a file read before has the same ones, those.

    Raises:
        ValueError: one is not text.
    """
    for known, ids in list(_recent):
        if known.equals(column):
            return ids
    if len(column) and (str(column.type) not in ("string", "large_string") or column.null_count):
        raise ValueError("an id is not text")
    ids = tuple(column.to_pylist())
    _recent.append((column, ids))
    return ids


def are_distinct(ids: tuple[str, ...]) -> bool:
    """Whether no two of them are equal."""
    return _facts_of(ids)[0]


def hash_of(ids: tuple[str, ...]) -> str:
    """SHA-256 over them, in their order."""
    return _facts_of(ids)[1]


@lru_cache(maxsize=16)
def _facts_of(ids: tuple[str, ...]) -> tuple[bool, str]:
    return len(set(ids)) == len(ids), hashlib.sha256(json.dumps(ids).encode()).hexdigest()
