"""Locks between processes, and stop requests while waiting."""

import threading
from pathlib import Path

import pytest
from stops import stop_at

from trainable.runtime import stopping
from trainable.runtime.stopping import (
    StopRequested,
    exclusive,
    is_free,
    never_stop,
    raise_if_stopped,
)


@pytest.fixture
def held_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold the lock of `tmp_path / "made"` in a thread until the event is set."""
    monkeypatch.setattr(stopping, "_POLL_SECONDS", 0.02)
    release, is_held = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(tmp_path / "made", never_stop):
            is_held.set()
            release.wait(10)

    threading.Thread(target=hold, daemon=True).start()
    assert is_held.wait(10)
    return release


def test_a_stop_request_ends_the_wait(held_lock: threading.Event, tmp_path: Path) -> None:
    with (
        pytest.raises(StopRequested, match="another process made made"),
        exclusive(tmp_path / "made", stop_at(3)),
    ):
        pytest.fail("the lock is held")
    held_lock.set()


def test_a_released_lock_can_be_taken(held_lock: threading.Event, tmp_path: Path) -> None:
    def stop() -> bool:
        held_lock.set()
        return False

    with exclusive(tmp_path / "made", stop):
        assert held_lock.is_set()


def test_a_held_lock_is_not_free(held_lock: threading.Event, tmp_path: Path) -> None:
    assert not is_free(tmp_path / "made")
    held_lock.set()
    with exclusive(tmp_path / "made", never_stop):
        assert not is_free(tmp_path / "made")
    assert is_free(tmp_path / "made")


def test_a_free_lock_is_taken_without_checking_for_a_stop(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "new" / "made", pytest.fail):
            assert (tmp_path / "new").is_dir()


def test_raise_if_stopped() -> None:
    raise_if_stopped(never_stop, "whatever")
    with pytest.raises(StopRequested, match="while it was measured"):
        raise_if_stopped(lambda: True, "while it was measured")
