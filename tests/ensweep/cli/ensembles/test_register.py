"""`ensweep register` prints the version that an alias pointed to before, and how to restore it."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.models.registry import Registered, move_alias
from mlflow_setup.tracking.store import Tracking, resolve_tracking


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    """A model of three versions; the alias points to the second."""
    tracking = resolve_tracking(tmp_path / "my runs")
    tracking.client.create_registered_model("reviews")
    for number in (1, 2, 3):
        tracking.client.create_model_version("reviews", str(tmp_path / f"{number}"))
    tracking.client.set_registered_model_alias("reviews", "champion", "2")
    return tracking


def champion(tracking: Tracking) -> str:
    return str(tracking.client.get_model_version_by_alias("reviews", "champion").version)


def test_an_alias_is_moved_and_restored(tracking: Tracking, tmp_path: Path) -> None:
    words = ["register", "models:/reviews/3", "--storage", str(tmp_path / "my runs")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "models:/reviews@champion: version 3" in done.stdout
    assert champion(tracking) == "3"
    line = next(line for line in done.stderr.splitlines() if "to go back" in line)
    assert line.startswith("champion was version 2 before; to go back: ensweep register ")
    back = shlex.split(line.partition("to go back: ensweep ")[2])
    assert CliRunner().invoke(app, back).exit_code == 0
    assert champion(tracking) == "2"
    again = CliRunner().invoke(app, [*back, "--json"])
    content = json.loads(again.stdout)
    assert (content["version"], content["version_before"], content["run_id"]) == ("2", "2", None)


def test_a_new_alias_has_no_earlier_version(tracking: Tracking) -> None:
    assert move_alias(tracking, "models:/reviews/1", "old") == Registered("1", None)


@pytest.mark.parametrize("uri", ["models:/reviews@champion", "models:/reviews/9", "models:/none/1"])
def test_a_uri_without_a_version_is_refused(tracking: Tracking, uri: str) -> None:
    with pytest.raises(ConfigError):
        move_alias(tracking, uri)
    done = CliRunner().invoke(app, ["register", uri, "--storage", str(tracking.database.parent)])  # type: ignore[union-attr]
    assert isinstance(done.exception, EnsweepError)
    assert champion(tracking) == "2"
