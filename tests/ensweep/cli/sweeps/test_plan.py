"""`ensweep plan`: its output and exit codes. The problems that it finds are tested in
`tests/faults`."""

import json
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from ensweep.cli.app import app


def plan(folder: Path, data: Path | str, *given: str) -> tuple[int, str]:
    storage = ["--name", "s", "--storage", str(folder / "runs")]
    done = CliRunner().invoke(app, ["plan", "demo", "--data-dir", str(data), *storage, *given])
    return done.exit_code, done.stdout if "--json" in given else done.output


def test_every_error_is_shown_with_its_fix(tmp_path: Path, no_ray: None) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "runs" / "s").mkdir(parents=True)
    code, output = plan(tmp_path, tmp_path / "data", "--tracking-uri", "http://127.0.0.1:9")
    lines = output.splitlines()
    assert code == 3  # the data's checks, which come first
    assert [line[:5] for line in lines if line.startswith(("error", "ok", "note"))] == [
        *("ok   ", "error", "error", "ok   ", "note "),
    ]
    assert sum(line.startswith("       fix: ") for line in lines) == 2
    assert "2 error(s) to fix" in output
    assert not ray.is_initialized()


def test_errors_as_json(tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "runs" / "s").mkdir(parents=True)
    code, output = plan(tmp_path, tiny_data, "--json")
    content = json.loads(output)
    assert code == 2
    assert content["schema_version"] == 1
    assert content["forecast"] is None
    errors = [check for check in content["checks"] if check["verdict"] == "error"]
    assert errors
    assert all("runs/s" in check["found"] for check in errors)


@pytest.mark.slow
def test_a_forecast_as_json(
    tmp_path: Path,
    tiny_data: Path,
    tiny_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_ray: None,
) -> None:
    """Data and encoder at URIs: driver and tasks download them."""
    encoder = f"model.encoder=file://{tiny_encoder}"
    given = [encoder, "resources.gpus_per_trial=0", "--json", "--deep", "--share"]
    monkeypatch.setattr("search.planning.gpu_sharing.SECONDS", 0.2)
    code, output = plan(tmp_path, f"file://{tiny_data}", *given)
    assert code == 0, output
    content = json.loads(output)
    for share in content["sharing"]:
        assert share["setting"].startswith("resources.cpus_per_trial=")
        assert share["steps_per_second"] > 0, share["problem"]
    assert content["sharing"][0]["count"] == 1
    assert any("steps per second of" in check["found"] for check in content["checks"])
    forecast = content["forecast"]
    assert forecast["num_trials"] == 10
    assert forecast["max_epochs"] == 44  # 8 probes of 4 epochs, 2 trials of 6
    assert 40 <= forecast["epochs"]["low"] <= forecast["epochs"]["high"] <= 44
    assert 0 < forecast["hours"]["median"] < 1
    assert forecast["disk_bytes"] > 0
