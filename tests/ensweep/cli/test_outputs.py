"""Commands with an output path: checked before the work, written with the user's umask."""

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError

CLOSED = Path("/proc/self/task/none")
"""Not even root can create anything there."""
COMMANDS = {
    "predict": ["predict", "/nowhere", "--text", "a", "--output"],
    "export": ["export", "none", "--output"],
    "pretrain": ["pretrain", "b3", "--data-dir", "/nowhere", "--output"],
    "train": ["train", "baseline", "--data-dir", "/nowhere", "--output"],
    "compress": ["compress", "BUNDLE", "--data-dir", "/nowhere", "--output"],
    "data sample": ["data", "sample"],
    "data fetch": ["data", "fetch"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["closed", "below a file"])
def test_an_output_that_cannot_be_written_is_refused_first(
    command: str,
    place: str,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path is checked first: bundle, data and storage do not exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    output = {"closed": CLOSED, "below a file": tmp_path / "file" / "x"}[place]
    words = [str(tiny_bundle) if word == "BUNDLE" else word for word in COMMANDS[command]]
    result = CliRunner().invoke(app, [*words, str(output)])
    assert isinstance(result.exception, ConfigError), result.exception
    assert str(output) in result.exception.problem
    assert result.exception.fix
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outputs_have_the_permissions_that_the_umask_leaves(
    tiny_runs: Path, tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    storage = ["--storage", str(tiny_runs)]
    source = str(tiny_data / "quora-dev.csv")
    predict = ["predict", str(tiny_bundle), source, "--task", "similarity", "--output"]
    before = os.umask(0o022)
    try:
        for words in (
            ["export", "tiny", *storage, "--output", str(tmp_path / "bundle")],
            [*predict, str(tmp_path / "labels.csv")],
            [*predict, str(tmp_path / "labels"), "--shard-rows", "20"],
            ["data", "sample", str(tmp_path / "sample"), "--train-rows", "5", "--dev-rows", "5"],
        ):
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, result.exception
    finally:
        os.umask(before)
    found = [path for path in tmp_path.rglob("*") if path.exists()]
    assert len(found) > 25
    for path in found:
        expected = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


STORED = {
    "sweep": ["sweep", "demo", "--data-dir", "/nowhere"],
    "plan": ["plan", "demo"],
    "resume": ["resume"],
    "extend": ["extend", "s"],
    "train": ["train", "baseline"],
    "compress": ["compress", "bundle", "--data-dir", "/d", "--output", "x"],
    "leaderboard": ["leaderboard"],
    "report": ["report"],
    "ensemble": ["ensemble"],
    "export": ["export", "--output", "x"],
    "soup": ["soup", "--data-dir", "/d"],
    "sync": ["sync"],
    "gc": ["gc"],
    "ui": ["ui"],
}
WRITTEN = {
    "train": (["train", "baseline", "--output", "URI"], "--output"),
    "predict": (["predict", "BUNDLE", "--text", "a", "--output", "URI"], "--output"),
    "sign": (["sign", "URI", "--key", "key.pem"], "BUNDLE"),
    "data sample": (["data", "sample", "URI"], "DIR"),
}


@pytest.mark.parametrize("command", STORED)
@pytest.mark.parametrize("given_by", ["option", "environment"])
def test_a_storage_uri_needs_a_tracking_server(
    command: str, given_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SQLite file can be neither in an object store nor in the local folder `./s3:`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(
        "ENSWEEP_STORAGE", "s3://bucket/runs" if given_by == "environment" else "runs"
    )
    more = ["--storage", "s3://bucket/runs"] if given_by == "option" else []
    result = CliRunner().invoke(app, [*STORED[command], *more])
    assert isinstance(result.exception, ConfigError), result.exception
    assert result.exception.problem.startswith("--storage s3://bucket/runs: MLflow's database")
    assert "MLFLOW_TRACKING_URI" in str(result.exception.fix)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", WRITTEN)
def test_commands_that_write_files_refuse_a_storage_uri(
    command: str, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, option = WRITTEN[command]
    places = {"URI": "s3://bucket/runs", "BUNDLE": str(tiny_bundle)}
    result = CliRunner().invoke(app, [places.get(word, word) for word in words])
    assert isinstance(result.exception, ConfigError), result.exception
    assert result.exception.problem.startswith(f"{option} s3://bucket/runs: is a storage URI")
    assert result.exception.fix
    assert not list(tmp_path.iterdir())
