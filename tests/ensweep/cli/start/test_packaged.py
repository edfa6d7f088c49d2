"""Packaged recipes, sweeps and studies: listed, shown, copied, and used as copies."""

import json
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
    ("noun", "names"),
    [
        ("recipes", {"baseline", "b1", "b2", "b3", "b4", "b3-no-mnr", "baseline-lp-ft"}),
        ("sweeps", {"cluster", "demo", "selective", "single_gpu"}),
        ("studies", {"figure2", "figure3", "fine-tuning", "further", "heads", "paper", "signs"}),
    ],
)
def test_packaged_files_are_listed_with_a_description(noun: str, names: set[str]) -> None:
    listed = dict(line.split(maxsplit=1) for line in run(noun).stdout.splitlines())
    assert names == set(listed) or (noun == "recipes" and names < set(listed))
    assert all(len(description.split()) > 2 for description in listed.values())
    assert json.loads(run(noun, "--json").stdout)[noun] == listed


@pytest.mark.parametrize(
    ("noun", "name"), [("recipes", "b3"), ("sweeps", "demo"), ("studies", "signs")]
)
def test_packaged_files_are_shown_and_copied(noun: str, name: str, tmp_path: Path) -> None:
    shown = run(noun, "show", name).stdout
    assert "description:" in shown
    target = tmp_path / "mine.yaml"
    copied = run(noun, "copy", name, str(target))
    assert copied.stdout == f"wrote {target}\n"
    assert target.read_text(encoding="utf-8") == shown
    again = run(noun, "copy", name, str(target)).exception
    assert isinstance(again, ConfigError)
    assert "there already" in str(again)


def test_a_copy_resolves_to_the_same_configuration(tmp_path: Path) -> None:
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
    ("words", "message"),
    [
        (["recipes", "show", "b33"], "no recipe 'b33'; there are b3, "),
        (["sweeps", "copy", "selectiv"], "no sweep 'selectiv'; there are selective, "),
        (["studies", "show", "sign"], "no study 'sign'; there are signs, "),
    ],
)
def test_an_unknown_name_is_reported_with_the_known_ones(words: list[str], message: str) -> None:
    assert message in str(run(*words).exception)
