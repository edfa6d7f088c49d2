"""With a tracking server that requires a login, every command names the variables to set."""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from past_sweep import Past
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import EnsweepError
from mlflow_setup.filesystem.storage import TEMPORARY
from search.storage.sweep_folder import SWEEP_FILE

WITHOUT_LOGIN = {
    "ui": "prints the address of the server",
    "stop": "reaches the driver through the sweep's folder",
    "compress": "its teacher is a bundle",
    "submit": "sends a job to the cluster, whose nodes use the server",
}
TRAIN = ["--data-dir", "DATA", "model.encoder=ENCODER", "train.num_epochs=1"]
WORDS = {
    "doctor": [],
    "train": ["baseline", *TRAIN],
    "plan": ["demo", *TRAIN],
    "sweep": ["demo", *TRAIN],
    "resume": ["tiny"],
    "extend": ["tiny", "--num-samples", "1"],
    "ablate": ["signs", *TRAIN],
    "leaderboard": ["tiny"],
    "report": ["tiny"],
    "ensemble": ["tiny"],
    "soup": ["tiny", "--data-dir", "DATA"],
    "export": ["tiny", "--output", "out"],
    "register": ["BUNDLE"],
    "serve": ["models:/reviews@champion"],
    "sync": ["tiny"],
    "gc": ["tiny"],  # it deletes files first
    "delete": ["tiny", "--yes"],
}
EXIT_CODES = {"gc": 4, "report": 0}
"""These do their work, but cannot log it in MLflow. Of the others: 2."""


class _Unauthorized(BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _refuse

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Unauthorized) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def storage(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep `tiny` with the files of a driver: its `sweep.yaml`, and something for `gc`."""
    folder = tmp_path_factory.mktemp("login")
    past, storage = Past(folder), folder / "runs"
    shutil.copytree(tiny_runs, storage)
    shutil.copy(past.folder.path / SWEEP_FILE, storage / "tiny")
    (storage / "tiny" / f"{TEMPORARY}left").touch()
    return storage


def test_every_command_with_a_tracking_server_is_in_the_table() -> None:
    commands: Any = typer.main.get_command(app)
    accepting = {
        name
        for name, command in commands.commands.items()
        if any(each.name == "tracking_uri" for each in command.params)
    }
    assert accepting == {*WORDS, *WITHOUT_LOGIN}


@pytest.mark.parametrize("command", WORDS)
def test_a_missing_login_is_reported_with_its_variables(
    command: str,
    uri: str,
    storage: Path,
    tiny_bundle: Path,
    tiny_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.driver.sweep.starting_ahead", nullcontext)  # Ray is not needed
    drawn, written = SimpleNamespace(verdict=(), sections=()), tmp_path / "report.html"
    written.touch()
    files = SimpleNamespace(html=written, every=[written])
    monkeypatch.setattr("search.reports.report.sweep_report", lambda *_: drawn)  # it takes seconds
    monkeypatch.setattr("search.reports.pages.render.write_report", lambda *_: files)
    encoder = f"model.encoder={tiny_encoder}"
    places = {"BUNDLE": tiny_bundle, "DATA": tiny_data, "model.encoder=ENCODER": encoder}
    words = [str(places.get(word, word)) for word in WORDS[command]]
    result = CliRunner().invoke(
        app, [command, *words, "--storage", str(storage), "--tracking-uri", uri]
    )
    output = result.output
    if isinstance(result.exception, EnsweepError):
        output += str(result.exception)
        code = result.exception.exit_code
    else:
        assert isinstance(result.exception, SystemExit | None), (output, result.exception)
        code = result.exit_code
    assert code == EXIT_CODES.get(command, 2), output
    assert "MLFLOW_TRACKING_USERNAME" in output
    assert "401" in output
