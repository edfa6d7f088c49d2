"""The background mirror: no caller waits, nothing is lost, the end reports what is missing."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import wait_until

from mlflow_setup.errors import PartialError
from mlflow_setup.runs.background_mirror import PATIENCE_SECONDS, BackgroundMirror
from mlflow_setup.schema import TrialRecord, TrialSnapshot


class Server:
    """A fake `Mirror`: slow, unreachable, or working."""

    sweep = "s"

    def __init__(self) -> None:
        self.is_away, self.seconds = False, 0.0
        self.projected: list[str] = []
        self.at_once = self.most_at_once = 0
        self.on_progress: Callable[[], None] = lambda: None
        self.status: str | None = None
        self.has_started = False

    def try_start(self, *given: object) -> bool:
        try:
            self._answer()
        except PartialError:
            return False
        self.has_started = True
        return True

    def try_project(self, snapshot: TrialSnapshot) -> bool:
        try:
            self._answer()
        except PartialError:
            return False
        self.projected.append(snapshot.record.trial)
        return True

    def finish(self, status: str) -> None:
        self._answer()
        self.status = status

    def _answer(self) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        self.at_once -= 1
        if self.is_away:
            raise PartialError("away")


def snapshot(name: str) -> TrialSnapshot:
    if name == "broken":
        raise OSError("cannot be read")
    record = TrialRecord(name, "s", "b3", {}, {}, 0, "data", None, 0.0)
    return TrialSnapshot(record, (), None, {}, "", ())


@pytest.fixture
def server() -> Server:
    return Server()


def begin(server: Server, num_threads: int = 1) -> BackgroundMirror:
    mirror = BackgroundMirror(server, snapshot, num_threads)  # type: ignore[arg-type]
    mirror.start({}, {}, {"sweep.yaml": Path("sweep.yaml")})
    return mirror


def test_all_that_is_marked_is_projected_before_the_end(server: Server) -> None:
    mirror = begin(server)
    for name in ("a", "b", "c"):
        mirror.mark(name)
    assert mirror.close("FINISHED") == set()
    assert set(server.projected) == {"a", "b", "c"}
    assert (server.has_started, server.status) == (True, "FINISHED")


def test_marking_never_waits_and_waits_once_a_trial(server: Server) -> None:
    """R6: a server that takes a second for each call costs the driver nothing."""
    server.seconds = 0.3
    mirror = begin(server)
    started = time.monotonic()
    for _ in range(1000):
        mirror.mark("a")
    assert time.monotonic() - started < 100  # a thousand blocking calls would take 300
    assert mirror.close("FINISHED") == set()
    assert len(server.projected) <= 2


def test_what_was_missed_is_projected_once_the_server_is_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_setup.runs.background_mirror.RETRY_SECONDS", 0.05)
    server.is_away = True
    mirror = begin(server)
    mirror.mark("a")
    mirror.mark("b")
    time.sleep(0.3)
    assert server.projected == []
    server.is_away = False
    wait_until(lambda: set(server.projected) == {"a", "b"})
    assert mirror.close("FINISHED") == set()


@pytest.mark.parametrize("num_threads", [1, 4])
def test_the_end_waits_while_the_server_gets_on(server: Server, num_threads: int) -> None:
    """However long it takes in all: the limit is on the time without a successful request."""
    server.seconds = 0.1
    mirror = begin(server, num_threads)
    names = {f"{number:02d}" for number in range(12)}
    for name in sorted(names):
        mirror.mark(name)
    assert mirror.close("FINISHED", patience_seconds=0.8) == set()
    assert sorted(server.projected) == sorted(names)
    assert server.status == "FINISHED"
    assert server.most_at_once == num_threads


def test_a_request_of_a_large_trial_is_progress(server: Server) -> None:
    """One trial may take longer than the limit, if it is sent in parts."""

    def in_parts(given: TrialSnapshot) -> bool:
        for _ in range(10):
            time.sleep(0.1)
            server.on_progress()
        server.projected.append(given.record.trial)
        return True

    server.try_project = in_parts  # type: ignore[method-assign]
    mirror = begin(server)
    mirror.mark("a")
    assert mirror.close("FINISHED", patience_seconds=0.5) == set()
    assert server.projected == ["a"]


def test_at_the_end_one_request_that_fails_is_not_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed trial is retried while others succeed."""
    monkeypatch.setattr("mlflow_setup.runs.background_mirror.RETRY_SECONDS", 0.05)
    whole, failed = server.try_project, list[str]()

    def project(given: TrialSnapshot) -> bool:
        if given.record.trial == "00" and not failed:
            failed.append("00")
            time.sleep(0.3)
            return False
        return whole(given)

    server.try_project, server.seconds = project, 0.1  # type: ignore[method-assign]
    mirror = begin(server, 2)
    for number in range(5):
        mirror.mark(f"{number:02d}")
    assert mirror.close("FINISHED") == set()
    assert failed == ["00"]
    assert sorted(server.projected) == [f"{number:02d}" for number in range(5)]


def test_the_end_does_not_wait_for_a_server_that_is_away(server: Server) -> None:
    server.is_away = True
    mirror = begin(server)
    mirror.mark("a")
    time.sleep(0.1)
    started = time.monotonic()
    assert mirror.close("KILLED") == {"a", "s"}
    assert time.monotonic() - started < PATIENCE_SECONDS / 2


def test_nor_for_one_that_hangs(server: Server) -> None:
    server.seconds = 60
    mirror = begin(server)
    mirror.mark("a")
    assert mirror.close("FINISHED", patience_seconds=0.2) == {"a", "s"}
    assert any(thread.name == "mirror" and thread.daemon for thread in threading.enumerate())


def test_a_folder_that_cannot_be_read_is_said_and_the_rest_goes_on(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_setup.runs.background_mirror.RETRY_SECONDS", 0.05)
    mirror = begin(server)
    mirror.mark("broken")
    mirror.mark("a")
    wait_until(lambda: server.projected == ["a"])
    assert "trial broken cannot be tracked: cannot be read" in caplog.text
    mirror.mark("b")
    assert mirror.close("FINISHED") == {"broken"}
    assert server.projected == ["a", "b"]
