"""Progress of work: reported at intervals, with the time left, and in a file."""

from pathlib import Path

import pytest

from trainable.runtime.progress import Tally, Work, read_work, report_to, write_progress


class Clock:
    """A clock that only tests advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("trainable.runtime.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_time_left_is_estimated_from_the_work_of_this_process(clock: Clock) -> None:
    reports: list[Work] = []
    with report_to(reports.append):
        tally = Tally("epoch 2/3", 100, done=20)  # resumed from a checkpoint
        clock.now += 10
        tally.add(20, num_examples=320, loss=lambda: 0.5)
    assert reports[0] == Work("epoch 2/3", 20, 100, 0.0)
    assert reports[1] == Work("epoch 2/3", 40, 100, 10.0, 30.0, 32.0, 0.5)
    assert reports[1].describe() == "epoch 2/3: 40 %, loss 0.5000, 32 examples/s, 30 s left"


def test_reports_are_at_intervals_and_at_the_end(clock: Clock) -> None:
    reports: list[float] = []
    num_read = 0

    def loss() -> float:
        nonlocal num_read
        num_read += 1
        return 1.0

    with report_to(lambda work: reports.append(work.done)):
        tally = Tally("epoch 1/1", 1000)
        for _ in range(1000):
            clock.now += 0.01
            tally.add(1, 16, loss)
    assert reports[0] == 0
    assert reports[-1] == 1000
    assert 15 < len(reports) < 25  # in ten seconds
    assert num_read == len(reports) - 1  # reading the loss waits for the device


def test_without_reports_the_loss_is_not_read(clock: Clock) -> None:
    Tally("epoch 1/1", 1).add(1, 16, lambda: pytest.fail("the loss is read"))


def test_other_processes_can_read_the_progress_until_the_end(clock: Clock, tmp_path: Path) -> None:
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


def test_errors_of_writing_progress_are_ignored(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with write_progress(tmp_path / "file" / "under-way.json"):
        Tally("epoch 1/4", 50)
