"""Object stores that no sweep can lie in: what the command line says, before any work.

S3 by moto; a proxy before it takes away what the store, or the role of this machine, lacks.
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
        has_it = header in {name.lower() for name in request.headers}
        return (ignores_conditions if has_it else _passes)(request, send)

    return answer


def _passes(request: Request, send: Send) -> Answer:
    return send(request)


def says_that_all_went_well(request: Request, send: Send) -> Answer:
    answer = send(request)
    is_refusal = answer.status in (409, 412)
    return Answer(200, b"", {"ETag": '"0"'}) if is_refusal else answer


def knows_no_conditions(request: Request, send: Send) -> Answer:
    return error(501, "NotImplemented") if is_conditional(request) else send(request)


def no_right_to_delete(request: Request, send: Send) -> Answer:
    return error(403, "AccessDenied") if deletes(request) else send(request)


def no_right_to_delete_any(request: Request, send: Send) -> Answer:
    """As Amazon says it: the request is good, and of each object in it that it may not."""
    if not deletes(request):
        return send(request)
    keys = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
    refusal = (
        "<Error><Key>{}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    )
    text = f"<DeleteResult>{''.join(map(refusal.format, keys))}</DeleteResult>"
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
    says_that_all_went_well: NO_CONDITIONS,
    knows_no_conditions: NO_CONDITIONS,
    no_right_to_delete: rf"may not be deleted: {DENIED}.\n{ROLE}",
    no_right_to_delete_any: rf"may not be deleted: .*Access Denied.*\n{ROLE}",
    read_only: rf"may not be written: {DENIED}.\n{ROLE}",
    write_only: r"may not be read: .*\nfix: give this machine a role that may read there",
    no_such_key: rf"may not be written: 403 Forbidden: InvalidAccessKeyId: In words.\n{ROLE}",
}


@pytest.fixture
def ensweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The command line: it ends with exit code 2, and what it says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ensweep", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        return said

    return run


refused = pytest.mark.promise(
    "R15",
    "object stores that ignore or lack conditional writes, or forbid writing, reading or deleting",
    "`sweep` refuses them by name, exit 2, with the remedy, before any work; no name is taken",
)


@refused
def test_r15_stores_that_no_sweep_can_lie_in(
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
    store, there = ObjectStore(URI), s3["AWS_ENDPOINT_URL"]
    for number, (manner, message) in enumerate(REFUSALS.items()):
        monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / str(number)))
        with in_front_of(there, manner) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            said = ensweep(*words, "--storage", URI)
        place = rf"error: --storage {URI}(/\.probe-\w+)?: "
        assert re.search(place + message, said, re.DOTALL), said
        left = [name for name in store.entries("") if not name.startswith(".probe-")]
        assert left == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", there)
    said = ensweep(*words, "--storage", "s3://nowhere/s")
    assert re.search(r"error: --storage s3://nowhere/s.*no such bucket.*\nfix: correct the U", said)
    assert not (tmp_path / "runs.db").exists() or not tracked_sweeps(
        Tracking(f"sqlite:///{tmp_path}/runs.db")
    )
    table.played(len(REFUSALS) + 1)


@refused
def test_doctor_says_it_as_well(
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
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(NO_CONDITIONS.replace("\\n", " "), said), said
