"""Every setting is described: on the command line, in docs/settings.md, and after a typo."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from search.config.reference import every_setting
from search.config.sweep_config import SWEEP_KEYS
from trainable.config.parse import valid_keys

PAGE = Path(__file__).parents[4] / "docs" / "settings.md"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_every_setting_has_a_description_a_range_and_a_section() -> None:
    settings = every_setting()
    assert {s.key for s in settings} >= {*valid_keys(), *SWEEP_KEYS}
    assert [s.key for s in settings if not s.meaning or not s.range] == []
    assert [s.key for s in settings if not s.section] == []  # the docstring of its class


def test_the_page_equals_the_output_of_the_command() -> None:
    printed = run("settings", "--markdown").stdout
    assert PAGE.read_text(encoding="utf-8") == printed, (
        "write it again: ensweep settings --markdown > docs/settings.md"
    )
    assert "| `optim.lr` | `1e-05` | number above 0 and below 1 | Learning rate" in printed


@pytest.mark.parametrize(
    ("key", "first", "others"),
    [
        ("optim.lr", "optim.lr", []),
        ("lr", "optim.lr", ["pretrain.lr", "probe.lr", "swa.lr"]),
        ("epochs", "train.num_epochs", ["probe.num_epochs"]),
        ("loss.mnr", "loss.mnr.enabled", ["loss.mnr.weight"]),
        ("max_hours", "budget.max_hours", []),
    ],
)
def test_a_setting_is_found_by_its_key_section_or_last_part(
    key: str, first: str, others: list[str]
) -> None:
    found = list(json.loads(run("settings", key, "--json").stdout)["settings"])
    assert found[0] == first
    assert set(others) <= set(found)
    assert run("settings", key).stdout.startswith(f"{first}\n  ")


def test_an_unknown_setting_is_reported_with_the_nearest() -> None:
    error = run("settings", "dropuot").exception
    assert isinstance(error, ConfigError)
    nearest = "model.head_dropout, model.encoder_dropout, "
    assert str(error).startswith(f"no setting 'dropuot'; the nearest: {nearest}")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["train", "b3", "--lr", "3e-4"], "optim.lr=VALUE"),
        (["train", "b3", "--optim.lr=3e-4"], "optim.lr=VALUE"),
        (["sweep", "demo", "--epochs", "3"], "train.num_epochs=VALUE"),
        (["pretrain", "b3", "--output", "x", "--batch-size", "3"], "batching.batch_size=VALUE"),
    ],
)
def test_an_option_that_is_a_setting_is_reported_with_the_setting(
    words: list[str], fix: str
) -> None:
    error = run(*words).exception
    assert isinstance(error, ConfigError)
    assert str(error.fix).startswith(fix)


def test_other_unknown_options_are_reported_by_typer() -> None:
    unknown = run("train", "b3", "--storrage", "x")
    assert unknown.exit_code == 2
    assert "--storage" in unknown.stderr
    assert run("leaderboard", "--lr", "1").exit_code == 2  # takes no settings


def test_a_cut_off_name_of_a_setting_names_it_first() -> None:
    assert "the nearest: optim.lr, " in str(run("settings", "optim.l").exception)
