"""Text for people: what a terminal may show, first lines of errors, near names."""


def printable(text: str) -> str:
    """`text` with control characters as question marks: data must not steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: a lone half of a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


NUM_SHOWN = 20
