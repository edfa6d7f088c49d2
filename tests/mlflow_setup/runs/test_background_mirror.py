"""The background mirror: callers do not wait, no trial is lost, `close` returns missing ones."""

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
        self.is_unreachable, self.seconds = False, 0.0
        self.projected: list[str] = []
        self.num_concurrent = self.max_concurrent = 0
        self.on_progress: Callable[[], None] = lambda: None
        self.status: str | None = None
        self.has_started = False

    def try_start(self, *given: object) -> bool:
        self.has_started = self._responds()
        return self.has_started

    def try_project(self, snapshot: TrialSnapshot) -> bool:
        if not self._responds():
            return False
        self.projected.append(snapshot.record.trial)
        return True

    def finish(self, status: str) -> None:
        if not self._responds():
            raise PartialError("unreachable")
        self.status = status

    def _responds(self) -> bool:
        self.num_concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.num_concurrent)
        time.sleep(self.seconds)
        self.num_concurrent -= 1
        return not self.is_unreachable


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


def test_close_projects_all_marked_trials(server: Server) -> None:
    mirror = begin(server)
    for name in ("a", "b", "c"):
        mirror.mark(name)
    assert mirror.close("FINISHED") == set()
    assert set(server.projected) == {"a", "b", "c"}
    assert (server.has_started, server.status) == (True, "FINISHED")


def test_marking_does_not_wait_and_queues_a_trial_once(server: Server) -> None:
    """R6: a slow server does not slow the driver down."""
    server.seconds = 0.3
    mirror = begin(server)
    started = time.monotonic()
    for _ in range(1000):
        mirror.mark("a")
    assert time.monotonic() - started < 100  # a thousand blocking calls would take 300
    assert mirror.close("FINISHED") == set()
    assert len(server.projected) <= 2


def test_trials_missed_in_an_outage_are_projected_after_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_setup.runs.background_mirror.RETRY_SECONDS", 0.05)
    server.is_unreachable = True
    mirror = begin(server)
    mirror.mark("a")
    mirror.mark("b")
    time.sleep(0.3)
    assert server.projected == []
    server.is_unreachable = False
    wait_until(lambda: set(server.projected) == {"a", "b"})
    assert mirror.close("FINISHED") == set()


@pytest.mark.parametrize("num_threads", [1, 4])
def test_close_waits_while_the_server_makes_progress(server: Server, num_threads: int) -> None:
    """The limit is on the time without a successful request, not on the total."""
    server.seconds = 0.1
    mirror = begin(server, num_threads)
    names = {f"{number:02d}" for number in range(12)}
    for name in sorted(names):
        mirror.mark(name)
    assert mirror.close("FINISHED", patience_seconds=0.8) == set()
    assert sorted(server.projected) == sorted(names)
    assert server.status == "FINISHED"
    assert server.max_concurrent == num_threads


def test_each_request_of_a_large_trial_counts_as_progress(server: Server) -> None:
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


def test_close_retries_a_failed_trial(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed trial is retried while others succeed."""
    monkeypatch.setattr("mlflow_setup.runs.background_mirror.RETRY_SECONDS", 0.05)
    original, failed = server.try_project, list[str]()

    def project(given: TrialSnapshot) -> bool:
        if given.record.trial == "00" and not failed:
            failed.append("00")
            time.sleep(0.3)
            return False
        return original(given)

    server.try_project, server.seconds = project, 0.1  # type: ignore[method-assign]
    mirror = begin(server, 2)
    for number in range(5):
        mirror.mark(f"{number:02d}")
    assert mirror.close("FINISHED") == set()
    assert failed == ["00"]
    assert sorted(server.projected) == [f"{number:02d}" for number in range(5)]


def test_close_does_not_wait_for_an_unreachable_server(server: Server) -> None:
    server.is_unreachable = True
    mirror = begin(server)
    mirror.mark("a")
    time.sleep(0.1)
    started = time.monotonic()
    assert mirror.close("KILLED") == {"a", "s"}
    assert time.monotonic() - started < PATIENCE_SECONDS / 2


def test_close_does_not_wait_for_a_server_that_hangs(server: Server) -> None:
    server.seconds = 60
    mirror = begin(server)
    mirror.mark("a")
    assert mirror.close("FINISHED", patience_seconds=0.2) == {"a", "s"}
    assert any(thread.name == "mirror" and thread.daemon for thread in threading.enumerate())


def test_a_trial_that_cannot_be_read_is_logged_and_the_others_are_projected(
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
