"""README as a newcomer types it: its commands in order, and what it shows of their outputs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = "From a CSV of reviews to a served model"
_BLOCK = re.compile(r"```(?P<kind>sh|text)\n(?P<code>.*?)```", re.S)


def tutorial() -> str:
    """The section of README."""
    page = README.read_text(encoding="utf-8")
    _, _, rest = page.partition(f"## {TUTORIAL}\n")
    section, found, _ = rest.partition("\n## ")
    assert found
    return section


def blocks(text: str) -> list[tuple[str, str]]:
    """(`sh` or `text`, content) of the commands and outputs that a page shows."""
    return [(match["kind"], match["code"]) for match in _BLOCK.finditer(text)]


def commands(code: str) -> list[str]:
    """The lines of a block, without comments."""
    lines = (line.partition("   #")[0].strip() for line in code.splitlines())
    return [line for line in lines if line]


def not_said(shown: str, printed: str) -> list[str]:
    """Lines that a page shows and a command did not print: numbers, verdicts, and what comes after
    the first words of a line may be others."""
    said = {_words(line) for line in printed.splitlines()}
    return [
        line
        for line in shown.splitlines()
        if line.strip() and line != "..." and _words(line) not in said
    ]


def _words(line: str) -> str:
    line = re.sub(r"\b(negative|neutral|positive)\b(?=,\d|\",)", "VERDICT", line)
    line = re.sub(r"\d[\d.,]*", "0", line).replace("encoders", "encoder")
    return " ".join(line.split()[:3])
