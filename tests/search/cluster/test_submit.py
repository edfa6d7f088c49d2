"""Submitted jobs: their content, errors before submission, and their logs."""

import asyncio
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from past_sweep import sweep_of
from ray.job_submission import JobStatus

from mlflow_setup.errors import ConfigError, PartialError
from search.cluster import follow_job as following
from search.cluster.follow_job import follow
from search.cluster.submit import Submission, connect, submit

ROOT = Path(__file__).parents[3]
STORAGE = Path("/mnt/ensweep/runs")


class Cluster:
    """Answers as a JobSubmissionClient does, for jobs whose status is given."""

    def __init__(self, **status: JobStatus) -> None:
        self.status = status
        self.sent: list[dict[str, Any]] = []
        self.already_exists = False

    def list_jobs(self) -> list[Any]:
        return [SimpleNamespace(submission_id=i, status=s) for i, s in self.status.items()]

    def submit_job(self, **job: Any) -> None:
        if self.already_exists:
            raise RuntimeError("Request failed: Job with submission_id x already exists.")
        files = Path(job["runtime_env"]["working_dir"])
        self.sent.append(
            {
                **job,
                "files": {
                    path.relative_to(files).as_posix(): path.read_bytes()
                    for path in files.rglob("*")
                    if path.is_file()
                },
            }
        )


def test_a_job_has_the_code_the_sweep_file_and_one_command(tmp_path: Path) -> None:
    cluster = Cluster()
    sweep = sweep_of(tmp_path)
    given = Submission(sweep, "mine", STORAGE, "http://10.0.0.5:5000", ("old",))
    assert submit(cluster, given) == ("ensweep-mine", True)
    (job,) = cluster.sent
    assert job["entrypoint"] == (
        "exec python -m ensweep sweep mine.yaml --name mine --storage /mnt/ensweep/runs "
        "--resume-if-begun --warm-start old"
    )
    assert "mine.yaml" in job["files"]
    assert job["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "http://10.0.0.5:5000"
    assert "entrypoint_num_cpus" not in job  # it runs on the head, which may have no CPU to offer


def test_nothing_is_installed_on_a_node(tmp_path: Path) -> None:
    """Ray would install wheels of `py_modules` into one folder for all jobs, which broke nodes that
    joined during a second sweep. `working_dir` is unpacked into a folder for each job."""
    cluster = Cluster()
    submit(cluster, Submission(sweep_of(tmp_path), "s", STORAGE))
    (job,) = cluster.sent
    environment = job["runtime_env"]
    assert set(environment) == {"working_dir", "env_vars", "config"}
    assert environment["config"] == {"eager_install": False}  # jobs that have ended cost nothing
    for name in ("ensweep/__init__.py", "search/cluster/submit.py", "trainable/tune/trainable.py"):
        assert job["files"][name] == (ROOT / name).read_bytes()
    assert "trainable/config/recipes/b3.yaml" in job["files"]
    assert any(name.endswith(".dist-info/METADATA") for name in job["files"])  # its version


@pytest.mark.parametrize(
    ("status", "job_id", "is_new"),
    [
        ({}, "ensweep-s", True),
        ({"ensweep-s": JobStatus.RUNNING}, "ensweep-s", False),
        ({"ensweep-s": JobStatus.PENDING}, "ensweep-s", False),
        ({"ensweep-s": JobStatus.FAILED}, "ensweep-s@2", True),
        ({"ensweep-s": JobStatus.FAILED, "ensweep-s@2": JobStatus.RUNNING}, "ensweep-s@2", False),
        ({"ensweep-s": JobStatus.STOPPED, "ensweep-s@2": JobStatus.FAILED}, "ensweep-s@3", True),
        ({"ensweep-t": JobStatus.RUNNING}, "ensweep-s", True),
    ],
)
def test_a_sweep_has_one_job_at_a_time(
    tmp_path: Path, status: dict[str, JobStatus], job_id: str, is_new: bool
) -> None:
    cluster = Cluster(**status)
    given = Submission(sweep_of(tmp_path), "s", STORAGE)
    assert submit(cluster, given) == (job_id, is_new)
    assert len(cluster.sent) == is_new


def test_a_job_that_another_process_submits_at_the_same_time_is_not_new(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.already_exists = True
    given = Submission(sweep_of(tmp_path), "s", STORAGE)
    assert submit(cluster, given) == ("ensweep-s", False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"storage": Path("runs")}, "--storage runs: is a path on this machine"),
        ({"storage": Path("s3://bucket/runs")}, "--storage s3:/bucket/runs: is a path on this"),
        ({"data": "s3://me:hunter2@bucket/data"}, "credentials would be shown"),
        ({"encoder": "tests"}, "model.encoder tests: is a path on this machine"),
        ({"data": "data"}, "data.dir data: is a path on this machine"),
        ({"name": "../up"}, "sweep"),
        ({"tracking_uri": "http://me:hunter2@mlflow:5000"}, "credentials would be shown"),
        ({"tracking_uri": "postgresql://mlflow/db?password=hunter2"}, "credentials would be shown"),
        ({"tracking_uri": "sqlite:///mlflow.db"}, "--tracking-uri mlflow.db: is a path on this"),
    ],
)
def test_paths_and_uris_that_nodes_cannot_use_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    sweep = sweep_of(tmp_path)
    for key, name in (("data.dir", "data"), ("model.encoder", "encoder")):
        if name in given:
            sweep = sweep.model_copy(update={"config": {key: given.pop(name)}})
    with pytest.raises(ConfigError) as caught:
        Submission(**{"sweep": sweep, "name": "s", "storage": STORAGE, **given})
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("place", ["s3://bucket/folder", "file:///mnt/folder", "/mnt/folder"])
def test_data_and_encoder_may_be_at_a_uri_or_an_absolute_path(tmp_path: Path, place: str) -> None:
    cluster = Cluster()
    places = {"data.dir": place, "model.encoder": place}
    sweep = sweep_of(tmp_path).model_copy(update={"config": places})
    submit(cluster, Submission(sweep, "mine", STORAGE))
    sent = json.loads(cluster.sent[0]["files"]["mine.yaml"])
    assert sent["config"] == places


class _Dashboard(http.server.BaseHTTPRequestHandler):
    status, body = 200, b'{"ray_version": "2.9.3"}'

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"Unauthorized", "requires a token, and none was sent"),
        (403, b"Forbidden", "rejects the token"),
        (200, b'{"ray_version": "2.9.3"}', "runs Ray 2.9.3, this machine has 2."),
        (404, b"", "404"),
        (500, b"", "no Ray cluster answers"),
        (200, b"<html>", "no Ray cluster answers"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_reported(
    dashboard: str, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, message: str
) -> None:
    monkeypatch.setattr(_Dashboard, "status", status)
    monkeypatch.setattr(_Dashboard, "body", body)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # Ray would prefer it to the address
    with pytest.raises(ConfigError, match=message):
        connect(dashboard)


def test_wrong_addresses_and_unreadable_tokens_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no Ray cluster answers at"):
        connect("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="submitted to the dashboard"):
        connect("ray://127.0.0.1:10001")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH: .*cannot be read"):
        connect("http://127.0.0.1:9")
    (tmp_path / "none").touch()
    with pytest.raises(ConfigError, match="is empty"):
        connect("http://127.0.0.1:9")


class Log:
    """A job's log, interrupted once after each number of chunks in `breaks`."""

    def __init__(
        self, breaks: list[int], status: JobStatus = JobStatus.SUCCEEDED, code: int | None = 0
    ) -> None:
        self.breaks, self.end = breaks, (status, code)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        chunks = ["one\n", "two\n", "three\n"]
        limit = self.breaks.pop(0) if self.breaks else len(chunks)
        for chunk in chunks[:limit]:
            await asyncio.sleep(0)
            yield chunk
        if limit < len(chunks):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, job_id: str) -> Any:
        status, code = self.end
        return SimpleNamespace(status=status, driver_exit_code=code, message="why")


@pytest.mark.parametrize("breaks", [[], [1], [0, 2, 1, 2], [2, 0, 0]])
def test_a_log_is_written_once_despite_interruptions(
    breaks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LONGEST_WAIT_SECONDS", 0.0)
    written: list[str] = []
    ended = follow(Log(breaks), "j", written.append)
    assert "".join(written) == "one\ntwo\nthree\n"
    assert ended.exit_code == 0


def test_a_cluster_that_no_longer_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LONGEST_WAIT_SECONDS", 0.0)
    with pytest.raises(PartialError, match="does not answer any longer"):
        follow(Log([0] * 100), "j", lambda _: None)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 4, 4),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 5),
        (JobStatus.STOPPED, None, 75),
    ],
)
def test_the_exit_code_is_that_of_the_sweep(
    status: JobStatus, code: int | None, expected: int
) -> None:
    ended = follow(Log([], status, code), "j", lambda _: None)
    assert (ended.exit_code, ended.message) == (expected, "why")
