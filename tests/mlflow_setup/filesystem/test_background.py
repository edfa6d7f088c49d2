"""Writes to a store in the background: in order, and all of them by the end of the block."""

import threading
from pathlib import Path

import pytest

from mlflow_setup.filesystem.background import Lanes


class Writes:
    """Writes that wait until they may continue."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.has_begun, self.may_continue = threading.Event(), threading.Event()

    def __call__(self, path: Path) -> None:
        self.has_begun.set()
        assert self.may_continue.wait(20)
        if path.name == "broken":
            raise OSError(5, "unreachable")
        self.made.append(path.name)


def test_writes_below_a_folder_run_in_order_in_the_background(tmp_path: Path) -> None:
    lanes, writes = Lanes(), Writes()
    with lanes.open(tmp_path / "t", is_lossy=False):
        for name in "cab":
            lanes.run(tmp_path / "t" / name, writes)
        assert not lanes.are_idle(tmp_path / "t" / "deep")
        assert writes.made == []
        lanes.run(tmp_path / "elsewhere", lambda path: writes.made.append(path.name))
        assert writes.made == ["elsewhere"]
        writes.may_continue.set()
        lanes.wait(tmp_path / "t")
        assert writes.made == ["elsewhere", *"cab"]
        assert lanes.are_idle(tmp_path / "t")
        lanes.run(tmp_path / "t" / "last", writes)
    assert writes.made[-1] == "last"
    lanes.run(tmp_path / "t" / "after", writes)
    assert writes.made[-1] == "after"


def test_after_a_failed_write_the_later_ones_are_dropped_and_the_error_is_raised(
    tmp_path: Path,
) -> None:
    lanes, writes = Lanes(), Writes()
    writes.may_continue.set()

    def block() -> None:
        with lanes.open(tmp_path, is_lossy=False):
            for name in ("weights", "broken", "record of both"):
                lanes.run(tmp_path / name, writes)
            for _ in range(2):
                with pytest.raises(OSError, match="unreachable"):
                    lanes.wait(tmp_path)
            assert lanes.are_idle(tmp_path)

    with pytest.raises(OSError, match="unreachable"):
        block()
    assert writes.made == ["weights"]


def test_waiting_writes_are_made_when_the_block_ends_in_an_error(tmp_path: Path) -> None:
    lanes, writes = Lanes(), Writes()
    writes.may_continue.set()

    def block() -> None:
        with lanes.open(tmp_path, is_lossy=False):
            for name in "ab":
                lanes.run(tmp_path / name, writes)
            raise SystemExit

    with pytest.raises(SystemExit):
        block()
    assert writes.made == ["a", "b"]


def test_a_lossy_lane_ignores_errors_and_drops_what_waits_at_the_end(tmp_path: Path) -> None:
    """A lane within another is independent of it."""
    lanes, writes, others = Lanes(), Writes(), Writes()
    others.may_continue.set()
    notes = tmp_path / "notes"
    with lanes.open(tmp_path, is_lossy=False), lanes.open(notes, is_lossy=True):
        for name in ("broken", "one"):
            lanes.run(notes / name, others)
        lanes.wait(notes)
        for name in ("begun", "late"):
            lanes.run(notes / name, writes)
        lanes.run(tmp_path / "other", others)
        lanes.wait(tmp_path)
        assert writes.has_begun.wait(20)
        threading.Timer(0.2, writes.may_continue.set).start()
    assert others.made == ["one", "other"]
    assert writes.made == ["begun"]
