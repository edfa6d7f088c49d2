"""What goes up to a store later: in order, and all of it at the end."""

import threading
from pathlib import Path

import pytest

from mlflow_setup.filesystem.background import Lanes


class Writes:
    """Writes that wait until they may be made."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, path: Path) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(20)
        if path.name == "broken":
            raise OSError(5, "away")
        self.made.append(path.name)


def test_writes_below_a_folder_are_made_in_order_while_other_work_goes_on(tmp_path: Path) -> None:
    lanes, writes = Lanes(), Writes()
    with lanes.open(tmp_path / "t", is_lossy=False):
        for name in "cab":
            lanes.run(tmp_path / "t" / name, writes)
        assert not lanes.are_idle(tmp_path / "t" / "deep")
        assert writes.made == []
        lanes.run(tmp_path / "elsewhere", lambda path: writes.made.append(path.name))
        assert writes.made == ["elsewhere"]
        writes.may_go_on.set()
        lanes.wait(tmp_path / "t")
        assert writes.made == ["elsewhere", *"cab"]
        assert lanes.are_idle(tmp_path / "t")
        lanes.run(tmp_path / "t" / "last", writes)
    assert writes.made[-1] == "last"
    lanes.run(tmp_path / "t" / "after", writes)
    assert writes.made[-1] == "after"


def test_nothing_is_written_after_what_failed_and_the_failure_is_told(tmp_path: Path) -> None:
    lanes, writes = Lanes(), Writes()
    writes.may_go_on.set()

    def block() -> None:
        with lanes.open(tmp_path, is_lossy=False):
            for name in ("weights", "broken", "record of both"):
                lanes.run(tmp_path / name, writes)
            for _ in range(2):
                with pytest.raises(OSError, match="away"):
                    lanes.wait(tmp_path)
            assert lanes.are_idle(tmp_path)

    with pytest.raises(OSError, match="away"):
        block()
    assert writes.made == ["weights"]


def test_what_waits_is_written_where_the_block_ends_in_an_error(tmp_path: Path) -> None:
    lanes, writes = Lanes(), Writes()
    writes.may_go_on.set()

    def block() -> None:
        with lanes.open(tmp_path, is_lossy=False):
            for name in "ab":
                lanes.run(tmp_path / name, writes)
            raise SystemExit

    with pytest.raises(SystemExit):
        block()
    assert writes.made == ["a", "b"]


def test_what_may_be_lost_holds_nothing_up(tmp_path: Path) -> None:
    """What fails is let go, and at the end what has not begun; a lane in another is apart."""
    lanes, writes, others = Lanes(), Writes(), Writes()
    others.may_go_on.set()
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
        threading.Timer(0.2, writes.may_go_on.set).start()
    assert others.made == ["one", "other"]
    assert writes.made == ["begun"]
