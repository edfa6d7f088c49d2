"""Text for people: what a terminal may show, first lines of errors, near names, hashes."""

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Iterable

_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
NUM_SHOWN = 20
"""Problems, or rows with one, that a message names at most; of the rest it says how many."""


def printable(text: str) -> str:
    """`text` on one line, with question marks for what would steer a terminal.

    That are control characters, line ends, what turns the direction of writing, and what is no
    character. No-break spaces and the joiners of scripts and emoji stay.
    """
    return "".join("?" if _steers(character) else character for character in text)


def for_terminal(text: str) -> str:
    """`text` as a terminal may show it, its lines kept."""
    return "\n".join(map(printable, text.split("\n")))


def _steers(character: str) -> bool:
    return character in _TURNS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: a lone half of a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def first_line(error: BaseException | str) -> str:
    """The first line of a message that is not blank; the type's name of an error without one."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0]
    return "" if isinstance(error, str) else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean minilm?)` for minlm, or nothing when no known name is near.

    Args:
        cutoff: in [0, 1], how alike two names must be: difflib's ratio, and its own default.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """The known names, those first that are most like `name` by difflib's ratio; of equals, as
    they came."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)


def there_are(name: str, known: Iterable[str]) -> str:
    """`; there are b3, b1 and 26 more`, the nearest first, for a name that is not there."""
    names = nearest_first(name, known)
    if not names:
        return "; there is none"
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    verb = "there is" if len(names) == 1 else "there are"
    return f"; {verb} {', '.join(map(printable, names[:NUM_SHOWN]))}{more}"


def short_hash(*parts: str | bytes, length: int = 16) -> str:
    """The first `length` of the 64 hex characters of the SHA-256 over `parts`, one after another.

    By it equal facts find each other: 16 characters are 64 bits, so that among a million things
    two are taken for one with a probability of 3e-8. What must not be forged needs all 64.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:length]


def counted(number: int, what: str) -> str:
    """`1 epoch`, `3 epochs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`1 h 5 min`, `37 min`, `3.5 min`, `40 s`: how long something takes, to a few per cent."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 10 else f"{seconds / 60:.1f} min"


def score_text(value: float | None) -> str:
    """A score as a table shows it, by four digits; nothing for one that is missing."""
    return "" if value is None else f"{value:.4f}"


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def setting_text(value: object) -> str:
    """A setting as it is typed and tracked: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def brief_text(value: object) -> str:
    """`brief` of a setting that may have become text: `1.5e-05` of `"1.4999e-05"`."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    return str(value) if isinstance(value, str) and value.isdecimal() else brief(number)


def brief(value: object) -> str:
    """A setting as a table shows it: a float by three digits, a list as `probe, finetune`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(brief, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
