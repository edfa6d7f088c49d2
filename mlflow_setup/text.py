"""Text helpers: escaping for terminals, first lines of errors, similar names, hashes, numbers."""

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable

_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
NUM_SHOWN = 20
"""The most problems, names or rows that a message lists; it gives the number of the rest."""


def printable(text: str) -> str:
    """`text` on one line, safe for a terminal: control characters, line breaks, bidirectional
    controls and lone surrogates become `?`. No-break spaces and joiners are kept.
    """
    return "".join("?" if _is_unsafe(character) else character for character in text)


def for_terminal(text: str) -> str:
    """`text` made safe for a terminal as by `printable`, with its line breaks kept."""
    return "\n".join(map(printable, text.split("\n")))


def _is_unsafe(character: str) -> bool:
    return character in _BIDI_CONTROLS or unicodedata.category(character) in (
        "Cc",
        "Cs",
        "Zl",
        "Zp",
    )


def is_text(text: str) -> bool:
    """Whether `text` can be encoded as UTF-8: it holds no lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def first_line(error: BaseException | str) -> str:
    """The first non-blank line of a message, without the number of a system's error; without a
    message, the name of the error's type."""
    lines = str(error).strip().splitlines()
    if lines:
        return re.sub(r"\[Errno -?\d+\] ", "", lines[0])
    return "" if isinstance(error, str) else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean minilm?)` for minlm; "" when no known name is similar.

    Args:
        cutoff: the lowest similarity, in [0, 1]: difflib's ratio, and difflib's default.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """The known names, the most similar to `name` first by difflib's ratio; ties keep their
    order."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)


def there_are(name: str, known: Iterable[str]) -> str:
    """`; there are b3, b1 and 26 more`, the most similar first, to end a message about a name that
    does not exist."""
    names = nearest_first(name, known)
    if not names:
        return "; there is none"
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    verb = "there is" if len(names) == 1 else "there are"
    return f"; {verb} {', '.join(map(printable, names[:NUM_SHOWN]))}{more}"


def short_hash(*parts: str | bytes, length: int = 16) -> str:
    """The first `length` of the 64 hex characters of the SHA-256 of the concatenated `parts`.

    16 characters are 64 bits: among a million values, two collide with a probability of 3e-8.
    Protection against forgery needs all 64.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:length]


def counted(number: int, what: str) -> str:
    """`1 epoch`, `3 epochs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration rounded for display: `1 h 5 min`, `37 min`, `3.5 min`, `40 s`."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 10 else f"{seconds / 60:.1f} min"


def score_text(value: float | None) -> str:
    """A score with four decimals; "" for None."""
    return "" if value is None else f"{value:.4f}"


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def setting_text(value: object) -> str:
    """A setting as it is typed and logged: text unchanged, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def brief_text(value: object) -> str:
    """`brief` for a setting that may have been read back as text: `"1.4999e-05"` -> `1.5e-05`."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    return str(value) if isinstance(value, str) and value.isdecimal() else brief(number)


def brief(value: object) -> str:
    """A setting for a table: a float with three significant digits, a list as `probe, finetune`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(brief, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
