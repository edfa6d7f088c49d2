"""The commands of the tutorial in README, in order, and the outputs that it shows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = "From a CSV of reviews to a served model"
_BLOCK = re.compile(r"```(?P<kind>sh|text)\n(?P<code>.*?)```", re.S)


def tutorial() -> str:
    """The text of the tutorial's section in README."""
    page = README.read_text(encoding="utf-8")
    _, _, rest = page.partition(f"## {TUTORIAL}\n")
    section, found, _ = rest.partition("\n## ")
    assert found
    return section


def blocks(text: str) -> list[tuple[str, str]]:
    """The code blocks of a page: (`sh` or `text`, content)."""
    return [(match["kind"], match["code"]) for match in _BLOCK.finditer(text)]


def commands(code: str) -> list[str]:
    """The lines of a block, without comments."""
    lines = (line.partition("   #")[0].strip() for line in code.splitlines())
    return [line for line in lines if line]


def not_said(shown: str, printed: str) -> list[str]:
    """The lines that a page shows but a command did not print. Numbers, verdicts, and what follows
    the first words of a line may differ."""
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
