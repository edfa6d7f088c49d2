import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE, wait_until
from ports import free_port

from mlflow_setup.errors import ConfigError
from mlflow_setup.runs.query import download, latest_tracked_sweep
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord, TrialSnapshot
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from mlflow_setup.tracking.ui_server import own_names, run_ui, server_command

SECRET = "postgresql://user:s3cret@host/db"


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_only_requests_from_this_machine_are_allowed_by_default(tmp_path: Path) -> None:
    command, environment = server_command(resolve_tracking(tmp_path, f"sqlite:///{tmp_path}/m.db"))
    assert option(command, "--host") == "127.0.0.1"
    assert option(command, "--port") == "5000"
    assert option(command, "--workers") == "1"
    assert option(command, "--allowed-hosts") == "127.0.0.1,127.0.0.1:*,localhost,localhost:*"
    origins = option(command, "--cors-allowed-origins")
    assert origins == "http://127.0.0.1:5000,http://localhost:5000"
    assert option(command, "--artifacts-destination") == f"file://{tmp_path}/mlartifacts"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/m.db"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_a_password_is_not_on_the_command_line() -> None:
    command, environment = server_command(Tracking(SECRET))
    assert "s3cret" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == SECRET


def test_another_host_is_added_to_those_allowed() -> None:
    command, _ = server_command(Tracking(SECRET), host="10.0.0.7", port=80)
    names = ["127.0.0.1", "localhost", "10.0.0.7"]
    allowed = option(command, "--allowed-hosts").split(",")
    assert allowed == [part for name in names for part in (name, f"{name}:*")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_server_on_all_addresses_allows_this_machines_names(host: str) -> None:
    command, _ = server_command(Tracking(SECRET), host=host, port=80)
    allowed = option(command, "--allowed-hosts").split(",")
    names = own_names(host)
    assert socket.gethostname() in names
    assert "127.0.0.1" in names
    assert {part for name in names for part in (name, f"{name}:*")} <= set(allowed)
    origins = option(command, "--cors-allowed-origins").split(",")
    assert f"http://{socket.gethostname()}:80" in origins
    assert not any("*" in name for name in names)
    assert own_names("127.0.0.1") == own_names("10.0.0.7") == []


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}") as caught:
            run_ui(resolve_tracking(tmp_path, f"sqlite:///{tmp_path}/m.db"), port=port)
    assert caught.value.exit_code == 2
    assert "--port" in str(caught.value.fix)


def test_a_remote_tracking_server_is_not_served_again() -> None:
    with pytest.raises(ConfigError, match=r"has its own UI\nfix: open http://\*\*\*@host"):
        server_command(Tracking("http://user:s3cret@host"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def disconnected(storage: Path, port: int) -> Mirror:
    """A mirror whose server does not run yet."""
    mirror = Mirror(Tracking(f"http://127.0.0.1:{port}"), "outage")
    assert not mirror.try_project(trial(storage))
    assert mirror.dirty == {"t1"}
    return mirror


@pytest.fixture(scope="module")
def server(storage: Path, port: int, disconnected: Mirror) -> Iterator[Tracking]:
    """The server of `ensweep ui` on a new database, started after the outage of `disconnected`."""
    embedded = resolve_tracking(storage, f"sqlite:///{storage}/mlflow.db")
    embedded.check()
    source = (
        "from mlflow_setup.tracking.ui_server import run_ui\n"
        "from mlflow_setup.tracking.store import Tracking\n"
        f"run_ui(Tracking({embedded.uri!r}), port={port})\n"
    )
    command, _ = server_command(embedded)
    log = (storage / "server.log").open("w")
    process = subprocess.Popen(
        [command[0], "-c", source], stdout=log, stderr=log, start_new_session=True
    )
    try:
        log_text = (storage / "server.log").read_text
        wait_until(lambda: process.poll() is not None or status(port, "/health") == 200, log_text)
        assert process.poll() is None, log_text()
        yield Tracking(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(PATIENCE)
        log.close()


def trial(storage: Path) -> TrialSnapshot:
    predictions = storage / "outage" / "0001.parquet"
    predictions.parent.mkdir(exist_ok=True)
    predictions.write_text("epoch 1")
    return TrialSnapshot(
        record=TrialRecord("t1", "outage", "b1", {"optim.lr": 0.1}, {}, 0, "f00d", None, 1e9),
        epochs=(EpochRecord(1, {"dev/overall": 0.5}, {}, 1.0, 1e9 + 1),),
        outcome=OutcomeRecord(Outcome.FINISHED, "all epochs", 1, 1e9 + 2),
        predictions={"0001.parquet": predictions},
        weights_uri="/none",
        kept_epochs=(1,),
    )


def status(port: int, path: str, data: bytes | None = None, **headers: str) -> int | None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data,
        {"Content-Type": "application/json"} | headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.slow
def test_after_an_outage_the_mirror_catches_up(
    server: Tracking, disconnected: Mirror, storage: Path, tmp_path: Path
) -> None:
    assert disconnected.try_project(trial(storage))
    assert disconnected.try_project(trial(storage))
    assert disconnected.dirty == set()
    disconnected.finish("FINISHED")
    assert latest_tracked_sweep(server) == "outage"
    (run,) = server.search({"kind": "trial", "sweep": "outage"})
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    history = server.client.get_metric_history(run.info.run_id, "dev/overall")
    assert [(point.step, point.value) for point in history] == [(1, 0.5)]
    path = download(server, run.info.run_id, "predictions/0001.parquet", tmp_path)
    assert path.read_text() == "epoch 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:5000", 200),
        ("127.0.0.1:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.5", 403),
    ],
)
def test_foreign_host_names_are_refused(
    server: Tracking, port: int, host: str, expected: int
) -> None:
    search = b'{"max_results": 1}'
    path = "/api/2.0/mlflow/experiments/search"
    assert status(port, path, search, Host=host) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("origin", "expected"), [("http://evil.example", 403), (None, 200)])
def test_requests_of_foreign_origins_are_refused(
    server: Tracking, port: int, origin: str | None, expected: int
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    path = "/api/2.0/mlflow/experiments/search"
    assert status(port, path, b'{"max_results": 1}', **headers) == expected
