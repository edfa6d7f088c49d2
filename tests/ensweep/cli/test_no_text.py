"""Text that cannot be encoded as UTF-8, given to every option and argument of every command."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import EnsweepError

LATIN_1, LONE_SURROGATE = "caf\udce9", "warm \ud83d"
"""A byte of Latin-1 as Python decodes it on a command line, and half of a surrogate pair."""
EXIT_CODES = {"text": 3, "text2": 3}
"""Of sentences, which are data; everything else is usage: 2."""


def _commands(of: Any, *path: str) -> Iterator[tuple[str, Any]]:
    if path:
        yield " ".join(path), of
    for name, command in getattr(of, "commands", {}).items():
        yield from _commands(command, *path, name)


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _words(command: str, tested: Any, value: str | None) -> list[str]:
    """The command line with required arguments, and with `value` for the tested parameter."""
    words = command.split()
    for each in COMMANDS[command].params:
        if each.param_type_name == "argument":
            is_before = tested.param_type_name == "argument" and value is not None
            filler = "x" if each.required or is_before else None
        else:
            filler = "x" if each.required else None
        given = value if each is tested and value is not None else filler
        if given is not None:
            words += [given] if each.param_type_name == "argument" else [each.opts[0], given]
        if each is tested and each.param_type_name == "argument":
            break
    return words


def _run(words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit code and the output."""
    result = CliRunner().invoke(app, words, env=environment)
    if isinstance(result.exception, EnsweepError):
        return result.exception.exit_code, str(result.exception)
    assert isinstance(result.exception, SystemExit), (words, result.exception)
    return result.exit_code, re.sub(r"[\s│]+", " ", result.output)  # typer's box


@pytest.mark.parametrize("command", COMMANDS)
def test_invalid_text_is_refused_with_the_name_of_its_option(command: str, tmp_path: Path) -> None:
    for parameter in COMMANDS[command].params:
        if getattr(parameter, "is_flag", False):
            continue
        name = parameter.opts[0]
        if parameter.param_type_name == "argument":
            name = parameter.metavar
        code = EXIT_CODES.get(parameter.name, 2)
        cases = [(_words(command, parameter, value), {}) for value in (LATIN_1, LONE_SURROGATE)]
        if parameter.envvar:
            cases += [(_words(command, parameter, None), {parameter.envvar: LATIN_1})]
        for words, environment in cases:
            exit_code, message = _run(words, environment)
            assert (exit_code, name in message) == (code, True), (parameter, message)
            message.encode()  # can be printed
    assert not list(tmp_path.iterdir())


def test_a_setting_of_invalid_text_is_refused() -> None:
    for words, environment in (
        (["config", "show", "b3", f"model.encoder={LATIN_1}"], {}),
        (["config", "show", "b3"], {"ENSWEEP_MODEL__ENCODER": LATIN_1}),
    ):
        code, message = _run(words, environment)
        assert code == 2
        assert "not" in message
        assert "encoder" in message.lower()
        message.encode()


@pytest.mark.parametrize("words", [[LATIN_1], ["train", "b3", f"--{LONE_SURROGATE}", "x"]])
def test_a_command_or_option_of_invalid_text_is_refused(words: list[str]) -> None:
    code, message = _run(words, {})
    assert code == 2
    message.encode()
