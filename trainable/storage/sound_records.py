"""Reading records of which some may be damaged."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mlflow_setup.schema import AttemptRecord, Decision

Kind = TypeVar("Kind", Decision, AttemptRecord)


def sound_records(kind: type[Kind], files: Iterable[Path]) -> list[Kind]:
    """The undamaged records in the files, in the order of the files' names."""
    records: list[Kind] = []
    for path in sorted(files):
        with suppress(OSError, ValueError):
            records.append(kind.from_json(path.read_text(encoding="utf-8")))
    return records
