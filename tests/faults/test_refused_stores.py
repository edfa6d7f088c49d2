"""R15: commands refuse object stores that lack conditional writes or permissions.

moto emulates S3; a proxy in front of it removes features or permissions.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_table import Table
from stores import URI, Answer, Request, Send, in_front_of

from ensweep.cli.app import main
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.runs.query import tracked_sweeps
from mlflow_setup.tracking.store import Tracking

pytestmark = pytest.mark.rare("tests/mlflow_setup/filesystem, in memory")

CONDITIONS = {"if-match", "if-none-match"}


def error(status: int, code: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>In words.</Message></Error>"
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


def is_conditional(request: Request) -> bool:
    return bool(CONDITIONS & {name.lower() for name in request.headers})


def is_write(request: Request) -> bool:
    return request.method in ("PUT", "POST", "DELETE")


def deletes(request: Request) -> bool:
    return request.method == "DELETE" or (request.method == "POST" and "?delete" in request.path)


def ignores_conditions(request: Request, send: Send) -> Answer:
    kept = {k: text for k, text in request.headers.items() if k.lower() not in CONDITIONS}
    return send(Request(request.method, request.path, kept, request.body))


def ignores_one(header: str) -> Callable[[Request, Send], Answer]:
    def answer(request: Request, send: Send) -> Answer:
        is_used = header in {name.lower() for name in request.headers}
        return ignores_conditions(request, send) if is_used else send(request)

    return answer


def reports_refusals_as_success(request: Request, send: Send) -> Answer:
    answer = send(request)
    is_refusal = answer.status in (409, 412)
    return Answer(200, b"", {"ETag": '"0"'}) if is_refusal else answer


def rejects_conditions(request: Request, send: Send) -> Answer:
    return error(501, "NotImplemented") if is_conditional(request) else send(request)


def forbids_deleting(request: Request, send: Send) -> Answer:
    return error(403, "AccessDenied") if deletes(request) else send(request)


def forbids_bulk_deletes(request: Request, send: Send) -> Answer:
    """As Amazon does: the request succeeds, with an error for each object."""
    if not deletes(request):
        return send(request)
    keys = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
    error_of = (
        "<Error><Key>{}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    )
    text = f"<DeleteResult>{''.join(map(error_of.format, keys))}</DeleteResult>"
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def read_only(request: Request, send: Send) -> Answer:
    return error(403, "AccessDenied") if is_write(request) else send(request)


def write_only(request: Request, send: Send) -> Answer:
    return send(request) if is_write(request) else error(403, "AccessDenied")


def no_such_key(request: Request, send: Send) -> Answer:
    return error(403, "InvalidAccessKeyId")


NO_CONDITIONS = (
    r"does not support conditional writes.*: two drivers could hold the lease.*\nfix: use a store"
)
ROLE = r"fix: give this machine a role that may read, write and delete there, or set AWS_ACCESS_KEY"
DENIED = "403 Forbidden: AccessDenied: In words"
REFUSALS = {
    ignores_conditions: NO_CONDITIONS,
    ignores_one("if-none-match"): NO_CONDITIONS,
    ignores_one("if-match"): NO_CONDITIONS,
    reports_refusals_as_success: NO_CONDITIONS,
    rejects_conditions: NO_CONDITIONS,
    forbids_deleting: rf"may not be deleted: {DENIED}.\n{ROLE}",
    forbids_bulk_deletes: rf"may not be deleted: .*Access Denied.*\n{ROLE}",
    read_only: rf"may not be written: {DENIED}.\n{ROLE}",
    write_only: r"may not be read: .*\nfix: give this machine a role that may read there",
    no_such_key: rf"may not be written: 403 Forbidden: InvalidAccessKeyId: In words.\n{ROLE}",
}


@pytest.fixture
def ensweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function that runs a command, which must exit with code 2, and returns its stderr."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ensweep", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2, error
        return error

    return run


refused = pytest.mark.promise(
    "R15",
    "object stores that ignore or lack conditional writes, or forbid writing, reading or deleting",
    "`sweep` refuses them by name, exit 2, with the remedy, before any work; no name is taken",
)


@refused
def test_r15_sweep_refuses_unsuitable_stores(
    tmp_path: Path,
    tiny_data: Path,
    tiny_encoder: Path,
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    ensweep: Callable[..., str],
    table: Table,
) -> None:
    words = ["sweep", "demo", "--name", "s", "--data-dir", str(tiny_data)]
    words += [f"model.encoder={tiny_encoder}"]
    store, endpoint = ObjectStore(URI), s3["AWS_ENDPOINT_URL"]
    for number, (respond, message) in enumerate(REFUSALS.items()):
        monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / str(number)))
        with in_front_of(endpoint, respond) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            text = ensweep(*words, "--storage", URI)
        start = rf"error: --storage {URI}(/\.probe-\w+)?: "
        assert re.search(start + message, text, re.DOTALL), text
        left = [name for name in store.entries("") if not name.startswith(".probe-")]
        assert left == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    text = ensweep(*words, "--storage", "s3://nowhere/s")
    assert re.search(r"error: --storage s3://nowhere/s.*no such bucket.*\nfix: correct the U", text)
    assert not (tmp_path / "runs.db").exists() or not tracked_sweeps(
        Tracking(f"sqlite:///{tmp_path}/runs.db")
    )
    table.played(len(REFUSALS) + 1)


@refused
def test_r15_doctor_reports_an_unsuitable_store(
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with in_front_of(s3["AWS_ENDPOINT_URL"], ignores_conditions) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://nowhere:5000")
        monkeypatch.setattr(sys, "argv", ["ensweep", "doctor", "--storage", URI])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(NO_CONDITIONS.replace("\\n", " "), text), text
