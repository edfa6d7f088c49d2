"""One process makes what several need; who waits can be stopped and shows that it is alive."""

import threading
from pathlib import Path

import pytest

from trainable.runtime import stopping as waiting
from trainable.runtime.stopping import (
    StopRequested,
    exclusive,
    is_free,
    never_stop,
    raise_if_stopped,
)


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Another holder of `tmp_path / "made"`, which leaves when the event is set."""
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.02)
    leave, holds = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(tmp_path / "made", never_stop):
            holds.set()
            leave.wait(10)

    threading.Thread(target=hold, daemon=True).start()
    assert holds.wait(10)
    return leave


def test_a_stop_ends_the_wait(taken: threading.Event, tmp_path: Path) -> None:
    asked = iter(range(1, 100))
    with pytest.raises(StopRequested, match="another process made made"):  # noqa: SIM117
        with exclusive(tmp_path / "made", lambda: next(asked) == 3):
            raise AssertionError
    assert next(asked) == 4
    taken.set()


def test_the_next_enters_when_the_first_has_left(taken: threading.Event, tmp_path: Path) -> None:
    def ask() -> bool:
        taken.set()
        return False

    with exclusive(tmp_path / "made", ask):
        assert taken.is_set()


def test_whether_another_is_at_it(taken: threading.Event, tmp_path: Path) -> None:
    assert not is_free(tmp_path / "made")
    taken.set()
    with exclusive(tmp_path / "made", never_stop):
        assert not is_free(tmp_path / "made")
    assert is_free(tmp_path / "made")


def test_a_lock_that_nobody_holds_is_entered_unasked(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "new" / "made", pytest.fail):
            assert (tmp_path / "new").is_dir()


def test_going_on() -> None:
    raise_if_stopped(never_stop, "whatever")
    with pytest.raises(StopRequested, match="while it was measured"):
        raise_if_stopped(lambda: True, "while it was measured")
