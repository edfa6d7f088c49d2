"""Each command has a valid example, and is listed by `--help`."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from ensweep.cli.app import COMMANDS, app

ROOT = typer.main.get_command(app)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands(ROOT))


def examples(command: Any) -> list[str]:
    lines = (command.epilog or "").split("\n\n")
    return [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]


@pytest.mark.parametrize("path", ALL)
def test_each_example_is_valid(path: str) -> None:
    found = examples(ALL[path])
    assert found, f"{path} has no example in its help"
    for line in found:
        program, *words = shlex.split(line)
        assert (program, words[: len(path.split())]) == ("ensweep", path.split())
        ALL[path].make_context(path, words[len(path.split()) :])  # raises if it is wrong


def test_help_lists_every_command_in_the_order_of_use() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    panels = [text.index(f"─ {panel} ") for panel in COMMANDS]
    assert panels == sorted(panels)
    assert "Exit codes" in text
    for name in ROOT.commands:  # type: ignore[attr-defined]
        assert f"│ {name} " in text


def test_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout.startswith("ensweep 0.")
    assert result.exit_code == 0
