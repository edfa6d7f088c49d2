"""The next command that a command prints can be run unchanged, also with a space in a path."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from ensweep.cli.shared.place import Place
from ensweep.cli.sweeps.sweep import _end
from mlflow_setup.runs.usage import Usage
from search.driver.result import SweepResult
from search.storage.sweep_folder import SweepFolder

CLI = Path(__file__).parents[3] / "ensweep" / "cli"


@pytest.fixture(scope="module")
def storage(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep `tiny`, in a folder whose name has a space."""
    storage = tmp_path_factory.mktemp("next") / "my runs"
    shutil.copytree(tiny_runs, storage)
    return storage


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result


def next_of(text: str) -> list[list[str]]:
    lines = re.findall(r"^next: (.*)$", text, re.M)
    commands = [shlex.split(line) for line in lines]
    assert commands
    assert all(words[0] == "ensweep" for words in commands)
    return [words[1:] for words in commands]


def parsed(words: list[str]) -> Any:
    """Parse a command line; raises its error."""
    command: Any = typer.main.get_command(app)
    return command.commands[words[0]].make_context(words[0], words[1:])


def test_from_ensemble_to_predictions(storage: Path) -> None:
    """Each command is the one that the previous command printed."""
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    words = ["ensemble", "tiny", "--storage", str(storage), "--tracking-uri", uri]
    words += ["--runs", "sentiment=0002-b3"]
    for verb in ("export", "predict"):
        (words,) = next_of(run(*words).stderr)
        assert words[0] == verb
    assert "probability" in run(*words).stdout
    registered = ["register", "tiny-bundle", "--storage", str(storage), "--tracking-uri", uri]
    (serve,) = next_of(run(*registered).stderr)
    assert parsed(serve).params["storage"] == storage
    assert parsed(serve).params["tracking_uri"] == uri


def test_after_a_sweep_that_has_ended_or_was_stopped(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(storage, "tiny")
    place, facts = Place(storage), ((), (), Usage())
    result = SweepResult("tiny", folder.path, folder.snapshots(), *facts)
    _end(result, place, False)
    for words in next_of(capsys.readouterr().err):
        if words[0] == "leaderboard":
            run(*words)
        assert parsed(words).params["storage"] == storage
    _end(result, place, True)
    shown = capsys.readouterr()
    assert '"finished": ["0001-baseline", "0002-b3"]' in shown.out
    stopped = SweepResult("tiny", folder.path, (), (), (), Usage(), ("Ctrl-C", 130))
    with pytest.raises(typer.Exit):
        _end(stopped, place, False)
    (line,) = re.findall(r"^to continue: (.*)$", capsys.readouterr().err, re.M)
    assert parsed(shlex.split(line)[1:]).params["storage"] == storage


def test_after_a_soup(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble.soup.trial import Soup

    made = Soup("soup", "id", storage / "tiny", ("a@1", "b@1"), 2, {}, 0.6, 0.5)
    monkeypatch.setattr("ensemble.soup.trial.make_soup", lambda *given: made)
    words = ["soup", "tiny", "--data-dir", ".", "--storage", str(storage)]
    (ensemble,) = next_of(run(*words).stderr)
    assert (ensemble[0], parsed(ensemble).params["storage"]) == ("ensemble", storage)


def test_no_next_line_is_formatted_by_hand() -> None:
    """Storage options and quoting are handled at one place."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in CLI.rglob("*.py")}
    assert [name for name, text in texts.items() if "next: ensweep" in text] == []


def test_a_spent_budget_must_be_raised_to_continue(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = ("budget.max_usd=3 is used up", 75)
    with pytest.raises(typer.Exit):
        _end(SweepResult("tiny", storage, (), (), (), Usage(), stop), Place(storage), False)
    assert "it stops again at once unless --max-usd is raised" in capsys.readouterr().err
