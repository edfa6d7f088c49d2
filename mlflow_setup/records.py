"""Records as JSON: strict in their fields and types, and with a digest of what was written."""

import dataclasses
import json
from functools import cache
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mlflow_setup.text import short_hash


class Record:
    """JSON in and out, with a digest: a record that does not fit its fields, or is not as it was
    written, is refused."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self) -> str:
        """Raises ValueError when a number is not finite: JSON has no such numbers."""
        content = dataclasses.asdict(self)  # type: ignore[call-overload]
        return _dump({**content, _DIGEST: short_hash(_dump(content))})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError when `text` is not JSON, not of the record's fields and types, or was
        changed since it was written."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a {cls.__name__}: Invalid JSON: {error}") from None
        digest = content.pop(_DIGEST, None) if isinstance(content, dict) else None
        try:
            record: Self = _adapter(cls).validate_json(json.dumps(content))  # type: ignore[arg-type]
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            place = "".join(f"{part!r:.80}: " for part in detail["loc"])
            raise ValueError(f"not a {cls.__name__}: {place}{detail['msg']}") from None
        if digest != short_hash(_dump(content)):
            raise ValueError(f"not a {cls.__name__}: changed since it was written")
        return record


_DIGEST = "digest"
"""Key of a record's JSON: the start of the SHA-256 of all else in it."""


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False)


@cache
def _adapter(record: type[Record]) -> TypeAdapter[Any]:
    return TypeAdapter(record)
