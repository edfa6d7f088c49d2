"""Packaged recipes, sweeps and studies: listed, shown, copied, and used as copies."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from search.config.load import read_sweep
from trainable.config.recipe import resolve


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    ("noun", "name"), [("recipes", "b3"), ("sweeps", "demo"), ("studies", "signs")]
)
def test_each_is_listed_shown_and_copied(noun: str, name: str, tmp_path: Path) -> None:
    assert f"\n{name} " in f"\n{run(noun).stdout}"
    shown = run(noun, "show", name).stdout
    assert "description:" in shown
    target = tmp_path / "mine.yaml"
    copied = run(noun, "copy", name, str(target))
    assert copied.stdout == f"wrote {target}\n"
    assert target.read_text(encoding="utf-8") == shown
    again = run(noun, "copy", name, str(target)).exception
    assert isinstance(again, ConfigError)
    assert "there already" in str(again)


def test_a_copy_is_the_same_configuration(tmp_path: Path) -> None:
    run("recipes", "copy", "b3-no-mnr", str(tmp_path / "r.yaml"))
    run("sweeps", "copy", "selective", str(tmp_path / "s.yaml"))
    assert resolve(str(tmp_path / "r.yaml"), (), {}).config == resolve("b3-no-mnr", (), {}).config
    copy, own = read_sweep(str(tmp_path / "s.yaml"), (), {}), read_sweep("selective", (), {})
    assert (copy.space, copy.search, copy.base().settings) == (
        own.space,
        own.search,
        own.base().settings,
    )


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["recipes", "show", "b33"], "no recipe 'b33'; there are b3, "),
        (["sweeps", "copy", "selectiv"], "no sweep 'selectiv'; there are selective, "),
        (["studies", "show", "sign"], "no study 'sign'; there are signs, "),
    ],
)
def test_a_name_that_is_not_there_lists_those_that_are(words: list[str], nearest: str) -> None:
    assert nearest in str(run(*words).exception)
