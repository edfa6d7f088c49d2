"""Work tells how far it has come: seldom, with what is left, and to a file for other processes."""

from pathlib import Path

import pytest

from trainable.runtime.progress import Tally, Work, read_work, report_to, write_progress


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("trainable.runtime.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_is_left_follows_from_what_this_process_has_done(clock: Clock) -> None:
    told: list[Work] = []
    with report_to(told.append):
        tally = Tally("epoch 2/3", 100, done=20)  # a checkpoint was there
        clock.now += 10
        tally.add(20, num_examples=320, loss=lambda: 0.5)
    assert told[0] == Work("epoch 2/3", 20, 100, 0.0)
    assert told[1] == Work("epoch 2/3", 40, 100, 10.0, 30.0, 32.0, 0.5)
    assert told[1].describe() == "epoch 2/3: 40 %, loss 0.5000, 32 examples/s, 30 s left"


def test_it_is_told_seldom_but_always_of_the_end(clock: Clock) -> None:
    told: list[float] = []
    asked: list[float] = []

    def loss() -> float:
        asked.append(clock.now)
        return 1.0

    with report_to(lambda work: told.append(work.done)):
        tally = Tally("epoch 1/1", 1000)
        for _ in range(1000):
            clock.now += 0.01
            tally.add(1, 16, loss)
    assert told[0] == 0
    assert told[-1] == 1000
    assert 15 < len(told) < 25  # ten seconds
    assert len(asked) == len(told) - 1  # a loss is read from the device no oftener


def test_nobody_is_told_where_nobody_listens(clock: Clock) -> None:
    def loss() -> float:
        raise AssertionError("nobody wants to know")

    Tally("epoch 1/1", 1).add(1, 16, loss)


def test_another_process_reads_it_while_it_lasts(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "under-way.json"
    assert read_work(path) is None
    with write_progress(path):
        tally = Tally("epoch 1/4", 50)
        found = read_work(path)
        assert found is not None
        assert (found.what, found.fraction) == ("epoch 1/4", 0.0)
        clock.now += 5
        tally.add(25, 400)
        found = read_work(path)
        assert found is not None
        assert found.fraction == 0.5
        path.write_text("{")
        assert read_work(path) is None
    assert not path.exists()


def test_a_full_disk_is_for_the_work_to_find(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with write_progress(tmp_path / "file" / "under-way.json"):
        Tally("epoch 1/4", 50)
