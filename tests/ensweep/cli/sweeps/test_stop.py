"""`ensweep stop` from another process with the same storage has the effect of Ctrl-C."""

import json
import threading
from pathlib import Path

import pytest
from past_sweep import Past
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.filesystem.lease import Lease
from search.driver.stop_switch import StopSwitch
from trainable.storage.layout import STOP_REQUEST


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_setup.filesystem.lease.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("search.driver.stop_switch._POLL_SECONDS", 0.02)
    monkeypatch.setattr("search.storage.stop_request._POLL_SECONDS", 0.02)


def stop(storage: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["stop", *words, "--storage", str(storage)])


def test_stop_waits_until_the_driver_has_stopped(tmp_path: Path) -> None:
    past = Past(tmp_path)
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(stop(tmp_path, "s", "--json")))
    with Lease(past.folder.path), StopSwitch(past.folder.stop_file, lambda line: None) as switch:
        switch.expect_trials()
        thread.start()
        for _ in range(500):
            if switch.is_on:
                break
            threading.Event().wait(0.02)
        assert (switch.reason, switch.exit_code) == ("ensweep stop", 75)
        assert past.folder.stop_file.exists()  # the trials see it
        assert thread.is_alive()
    thread.join(30)
    (result,) = results
    content = json.loads(result.stdout)
    assert content["is_stopped"]
    assert len(content["asked"]) == 1
    assert "next: ensweep resume s --storage " in result.stderr
    assert not (past.folder.path / STOP_REQUEST).exists()


def test_an_old_request_does_not_stop_a_new_driver(tmp_path: Path) -> None:
    past = Past(tmp_path)
    (past.folder.path / STOP_REQUEST).touch()
    with StopSwitch(past.folder.stop_file, lambda line: None) as switch:
        assert not (past.folder.path / STOP_REQUEST).exists()
        assert not switch.is_on


def test_a_sweep_without_a_driver_and_an_unknown_sweep(tmp_path: Path) -> None:
    past = Past(tmp_path)
    result = stop(tmp_path)
    assert result.stdout == "s: no process is running it\n"
    assert not (past.folder.path / STOP_REQUEST).exists()
    unknown = stop(tmp_path, "t").exception
    assert isinstance(unknown, NothingUsableError)
    assert "no sweep 't'" in str(unknown)
    assert "there is s" in str(unknown)
