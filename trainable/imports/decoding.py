"""Reading the lines of text files in UTF-8, UTF-16, or the encoding that Excel calls ANSI."""

import codecs
import io
from pathlib import Path

from mlflow_setup.errors import ConfigError
from trainable.data.tables import UnreadableError, text_lines

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_WINDOWS = "cp1252"
"""The encoding of Excel's "CSV" in Western Europe: Latin-1 with a few more characters."""


def read_lines(path: Path, encoding: str | None = None) -> tuple[list[str], str]:
    """The lines, each ending in LF, and the encoding, "" for UTF-8.

    Args:
        encoding: Python's name of it; None: detected.

    Raises:
        ConfigError: there is no such encoding.
        UnreadableError: the file is a spreadsheet, or not text in that encoding.
        OSError: the file cannot be read.
    """
    if path.suffix.lower() in _SPREADSHEETS:
        raise UnreadableError(
            0, "is a spreadsheet, not text", 'save it as "CSV UTF-8 (comma delimited)"'
        )
    data = path.read_bytes()
    name = _encoding(data) if encoding is None else _known(encoding)
    if name == "utf-8":
        return [*_with_lf(data)], ""
    try:
        return [*_with_lf(data.decode(name).encode())], name
    except UnicodeError:
        raise UnreadableError(0, f"is not text in {name}", "name another --encoding") from None


def _with_lf(data: bytes) -> list[str]:
    lines = text_lines(io.BytesIO(data))
    return [line.replace("\r\n", "\n").replace("\r", "\n") for line in lines]


def _encoding(data: bytes) -> str:
    """The detected encoding; UTF-8 if none fits, so that the error names the first bad byte."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for name in ("utf-8", _WINDOWS):
        try:
            data.decode(name)
        except UnicodeError:
            continue
        return name
    return "utf-8"


def _known(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(
            f"--encoding {encoding!r}: no such encoding", fix="for example utf-8, cp1252 or cp1251"
        ) from None
