"""The reason of a trial's failure, out of Tune's text of its error."""

MAX_REASON = 300
"""Characters of an error's first line that become the reason of a failed trial."""


def first_line_of_error(text: str) -> str:
    """`ValueError: what went wrong` out of Tune's error text, which ends in a traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failure # ")] or lines  # Tune's header
    indented = [number for number, line in enumerate(lines) if line[0].isspace()]
    rest = lines[indented[-1] + 1 :] if indented else lines
    line = (rest or lines[-1:] or ["unknown error"])[0]
    return "".join(char for char in line if char.isprintable())[:MAX_REASON]
