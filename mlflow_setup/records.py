"""Records stored as JSON: fields and types are validated strictly, and a digest detects changes."""

import dataclasses
import json
from functools import cache
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mlflow_setup.text import short_hash


class Record:
    """Base class of records: JSON with a digest. Unknown fields, wrong types and content that was
    changed after writing are rejected."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self) -> str:
        """The record as JSON. Raises ValueError when a number is not finite."""
        content = dataclasses.asdict(self)  # type: ignore[call-overload]
        return _dump({**content, _DIGEST: short_hash(_dump(content))})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record in `text`. Raises ValueError when `text` is not JSON, has other fields or
        types, or was changed since it was written."""
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
"""The JSON key of the digest: the first 16 hex characters of the SHA-256 of all other content."""


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False)


@cache
def _adapter(record: type[Record]) -> TypeAdapter[Any]:
    return TypeAdapter(record)
