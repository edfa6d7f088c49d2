"""`ensweep doctor` finds problems, shows no secrets and creates nothing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


def doctor(*words: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, words)], env=environment)


def test_it_checks_everything_and_creates_nothing(tmp_path: Path) -> None:
    result = doctor("--storage", tmp_path / "runs", "--json", HF_TOKEN=SECRET)
    assert result.exit_code == 0, result.output
    checks = {each["name"]: each for each in json.loads(result.stdout)["checks"]}
    wanted = "versions devices ray storage tracking cache encoders token environment"
    assert list(checks) == wanted.split()
    assert "torch" in checks["versions"]["found"]
    assert "does not exist yet" in checks["storage"]["found"]
    assert "does not exist yet" in checks["tracking"]["found"]
    assert list(tmp_path.iterdir()) == []


def test_no_secret_is_shown(tmp_path: Path) -> None:
    given = {"HF_TOKEN": SECRET, "MLFLOW_TRACKING_PASSWORD": SECRET}
    uri = f"postgresql://me:{SECRET}@127.0.0.1:9/none"
    result = doctor("--storage", tmp_path, "--tracking-uri", uri, **given)
    assert SECRET not in result.output
    assert "HF_TOKEN=***" in result.stdout
    assert "token: of the hub: set, ***" in result.stdout


@pytest.mark.parametrize("broken", ["storage", "tracking", "environment"])
def test_a_problem_has_a_fix_and_an_exit_code(broken: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mlflow.db").write_text("not a database")
    storage = tmp_path / "file" if broken == "storage" else tmp_path
    words = ["--storage", storage, "--json"]
    if broken != "tracking":
        words += ["--tracking-uri", f"sqlite:///{tmp_path}/none.db"]
    given = {"ENSWEEP_OPTIM__LRR": "1"} if broken == "environment" else {}
    result = doctor(*words, **given)
    assert result.exit_code == 2
    (bad,) = (c for c in json.loads(result.stdout)["checks"] if c["verdict"] == "error")
    assert bad["name"] == broken
    assert bad["fix"] or broken == "environment"
    if broken == "environment":
        assert "did you mean optim.lr" in bad["found"]


def test_a_storage_with_a_sweep(tiny_runs: Path) -> None:
    result = doctor("--storage", tiny_runs)
    assert "experiment ensweep" in result.stdout
    assert "all checks passed" in result.stdout
