"""A sweep that is sent to a cluster with a token: nodes lost, jobs stopped, strangers refused (S5).

Three real nodes on this machine: see `submitting`.
"""

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from drivers import ROOT, assert_whole, epoch_files
from fault_table import Table
from patience import PATIENCE, wait_until
from ray.core.generated import gcs_service_pb2, node_manager_pb2, ray_client_pb2, reporter_pb2
from real_sweep import wait_for_epochs
from submitting import TOKEN, Cluster, environment, started_cluster, submitted, sweep_file

from mlflow_setup.schema import Outcome
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow

NUM_EPOCHS = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started_cluster() as cluster:
        yield cluster


@pytest.fixture
def sweep(tmp_path: Path, tiny_encoder: Path, tiny_data: Path) -> Path:
    return sweep_file(tmp_path, tiny_encoder, tiny_data, NUM_EPOCHS)


def _num_begun(folder: Path) -> int:
    """Trials that have ended an epoch."""
    return len({path.parent for path in epoch_files(folder)})


@pytest.mark.promise(
    "R2", "a node of a submitted sweep (tiny BERT) is removed hard", "whole; exit 0"
)
def test_a_submitted_sweep_outlives_a_node(cluster: Cluster, sweep: Path) -> None:
    process = submitted(cluster, sweep)
    wait_until(lambda: process.poll() is not None or _num_begun(sweep.parent) > 1)  # on each node
    cluster.tell("remove")
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, text
    assert "trials: 3 finished" in text
    ended = assert_whole(sweep.parent, 3, num_epochs=NUM_EPOCHS, is_pretended=False)
    assert set(ended.values()) == {Outcome.FINISHED}
    trials = SweepFolder(sweep.parent / "runs", "s").trial_folders()
    assert sum(len(trial.attempts()) - 1 for trial in trials) >= 1
    written = [path for path in (sweep.parent / "runs").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in text


@pytest.mark.promise(
    "R7",
    "a submitted sweep (tiny BERT) is stopped and sent again",
    "exit 75; no sweep runs twice at a time; whole; the log is followed again",
)
@pytest.mark.rare("a job is sent once, and one is refused")
def test_a_job_that_is_stopped_goes_on_when_it_is_sent_again(cluster: Cluster, sweep: Path) -> None:
    """Nobody's sweep runs twice at a time, and Ctrl-C ends the following, not the job."""
    first = submitted(cluster, sweep)
    wait_for_epochs(sweep.parent, 2, first)
    first.send_signal(2)
    text, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, text
    stop = text.partition("to stop it, resumably: ")[2].split()
    again = submitted(cluster, sweep)
    assert again.stdout is not None
    assert any("is running already" in line for line in again.stdout)
    given = environment(cluster.folder / "token")
    subprocess.run(stop, env=given, check=True, capture_output=True, timeout=PATIENCE)
    text, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 75, text
    outcomes = [t.outcome() for t in SweepFolder(sweep.parent / "runs", "s").trial_folders()]
    assert {outcome.outcome for outcome in outcomes if outcome} == {Outcome.STOPPED}
    third = submitted(cluster, sweep, "--json")
    text, _ = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0, text
    last = json.loads(text.splitlines()[-1])
    assert (last["status"], last["exit_code"]) == ("SUCCEEDED", 0)
    ended = assert_whole(sweep.parent, 3, num_epochs=NUM_EPOCHS, is_pretended=False)
    assert set(ended.values()) == {Outcome.FINISHED}


def test_what_the_sweep_refuses_is_the_exit_code_of_submit(cluster: Cluster, sweep: Path) -> None:
    process = submitted(cluster, sweep, "--data-dir", "/nowhere/at/all")
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, text
    assert "/nowhere/at/all" in text


REQUESTS = [
    ("GET", "/api/version"),
    ("GET", "/api/jobs/"),
    ("POST", "/api/jobs/"),
    ("POST", "/api/jobs/ensweep-s/stop"),
    ("DELETE", "/api/jobs/ensweep-s"),
    ("GET", "/api/jobs/ensweep-s/logs"),
    ("PUT", "/api/packages/gcs/x.zip"),
    ("GET", "/nodes?view=summary"),
    ("GET", "/logs/"),
    ("GET", "/api/v0/actors"),
    ("PUT", "/api/serve/applications/"),
    ("DELETE", "/api/serve/applications/"),
]


@pytest.mark.promise(
    "S5", "requests to the dashboard without a token, with a wrong one", "refused: 401, 403"
)
@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_s5_the_dashboard_refuses_strangers(
    cluster: Cluster, table: Table, method: str, path: str
) -> None:
    table.played(2)
    assert _status(cluster.address + path, method, None) == 401
    assert _status(cluster.address + path, method, "wrong") == 403
    if method == "GET":  # the same request with the token is let through
        assert _status(cluster.address + path, method, TOKEN) not in (401, 403)


def _status(url: str, method: str, token: str | None) -> int:
    job = json.dumps({"entrypoint": "echo owned"}).encode()
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = job if method in ("POST", "PUT") else None
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def test_s5_submit_says_what_is_missing(cluster: Cluster, sweep: Path) -> None:
    command = [sys.executable, "-m", "ensweep", "submit", str(sweep), "--storage", "/mnt/runs"]
    command += ["--address", cluster.address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_AUTH_TOKEN_PATH", None)
    for more, message in [
        ({}, "requires a token, and none was sent"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "rejects the token"),
    ]:
        done = subprocess.run(
            command, env={**environment, **more}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def _methods(module: Any, *services: str) -> list[str]:
    known = module.DESCRIPTOR.services_by_name
    return [f"/{known[s].full_name}/{m.name}" for s in services or known for m in known[s].methods]


@pytest.mark.promise(
    "S5",
    "calls of every remote procedure of the cluster's servers, without a token, with a wrong one",
    "refused as not authenticated",
)
def test_s5_gcs_client_and_nodes_refuse_strangers(cluster: Cluster, table: Table) -> None:
    """Every remote procedure, without a token and with a wrong one."""
    client = f"127.0.0.1:{cluster.client_port}"
    calls = [(cluster.gcs, method) for method in _methods(gcs_service_pb2)]
    calls += [(client, method) for method in _methods(ray_client_pb2, "RayletDriver")]
    for port in _ports(cluster, "raylet"):
        calls += [(f"127.0.0.1:{port}", method) for method in _methods(node_manager_pb2)]
    for port in _ports(cluster, "DashboardAgent", "::"):
        calls += [(f"127.0.0.1:{port}", m) for m in _methods(reporter_pb2, "ReporterService")]
    refused: dict[str, int] = {}
    let_in = []
    for target, method in calls:
        for token in (None, "wrong"):
            code = _call(target, method, token)
            if code is grpc.StatusCode.UNAUTHENTICATED:
                refused[target] = refused.get(target, 0) + 1
            elif code is not grpc.StatusCode.UNIMPLEMENTED:  # another server's procedure
                let_in.append((target, method, token, code))
    table.played(sum(refused.values()))
    assert let_in == []
    assert {cluster.gcs, client} < set(refused)
    nodes = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
    assert _call(cluster.gcs, nodes, TOKEN) is grpc.StatusCode.OK


def _call(target: str, method: str, token: str | None) -> grpc.StatusCode:
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(method)
        try:
            call(b"", metadata=metadata, timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def _ports(cluster: Cluster, kind: str, address: str = "") -> list[int]:
    found = [(name, ip, port) for name, ip, port in _sockets(cluster) if kind in name]
    return [port for _, ip, port in found if ip.startswith(address)]


def _sockets(cluster: Cluster) -> list[tuple[str, str, int]]:
    """(process, address, port) of all that the cluster's processes listen on."""
    return [
        (_kind(process), socket.laddr.ip.removeprefix("::ffff:"), socket.laddr.port)
        for process in cluster.processes()
        for socket in process.net_connections()
        if socket.status == psutil.CONN_LISTEN
    ]


def _kind(process: psutil.Process) -> str:
    """Ray's name of a process, or `python`, whatever the interpreter's file is called."""
    name = process.name()
    return "python" if name.startswith("python") else name


@pytest.mark.promise(
    "S5",
    "every socket that listens beyond this machine",
    "only what the nodes of a cluster need; of these only the metrics ports answer without a token",
)
def test_s5_what_listens_beyond_this_machine(cluster: Cluster, table: Table) -> None:
    """Only what the nodes of a cluster need of each other; of it, only metrics answer strangers."""
    sockets = _sockets(cluster)
    dashboard = int(cluster.address.rpartition(":")[2])
    assert {ip for _, ip, port in sockets if port == dashboard} == {"127.0.0.1"}
    beyond = [(name, ip, port) for name, ip, port in sockets if ip not in ("127.0.0.1", "::1")]
    told = {(name, port): _answer(ip, port) for name, ip, port in beyond}
    has_metrics = {place for place, text in told.items() if text.startswith("# HELP ")}
    table.played(len(told))
    assert {name for name, _ in has_metrics} <= {"ray::DashboardAgent", "python"}
    assert {text for place, text in told.items() if place not in has_metrics} <= {"401", "gRPC"}
    others = {(name, port) for name, port in told if (name, port) not in has_metrics}
    assert {port for name, port in others if name == "python"} == {cluster.client_port}
    kinds = {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "python"}
    assert {name for name, _ in others} == kinds


def _answer(address: str, port: int) -> str:
    """What a stranger's HTTP request gets: a text, a status, or what is no HTTP."""
    host = "127.0.0.1" if address in ("::", "0.0.0.0") else address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/api/jobs/", timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError as error:
        return str(error.code)
    except http.client.BadStatusLine:
        return "gRPC"
