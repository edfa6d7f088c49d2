"""A sweep's progress: the time left, and the table."""

import io
import random

from rich.console import Console

from mlflow_setup.schema import EpochRecord, Outcome
from search.driver.progress import Progress, _Row
from trainable.runtime.progress import Work


def test_progress_estimates_the_rest_of_the_sweep() -> None:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=200), num_trials=3, max_concurrent_trials=2)
    progress.started("0001", 4, 0, "lr=1")
    assert progress.remaining_seconds() is None
    metrics = {"dev/overall": 0.5, "dev/sentiment/accuracy": 0.25}
    progress.epoch("0001", EpochRecord(1, metrics, {}, 10.0, 0.0))
    assert progress.remaining_seconds() == (3 + 2 * 4) * 10 / 2
    progress.ended("0001", Outcome.PRUNED, "rung 1")
    assert progress.remaining_seconds() == 2 * 1 * 10 / 2  # as long as the trials so far
    lines = text.getvalue().splitlines()
    assert lines[0] == "0001: started, lr=1"
    assert lines[1].startswith("0001: epoch 1/4  overall 0.5000  sentiment 0.2500  about ")
    assert lines[1].endswith(" left")
    assert lines[2] == "0001: pruned, rung 1"


def test_epochs_of_probes_are_estimated_separately() -> None:
    progress = Progress(Console(file=io.StringIO()), 4, 1, num_probes=2)
    progress.started("0001", 2, 2, "")
    for epoch in (1, 2):
        progress.epoch("0001", EpochRecord(epoch, {"dev/overall": 0.5}, {}, 1.0, 0.0))
    progress.ended("0001", Outcome.FINISHED, "")
    progress.started("0002", 4, 2, "")  # it continues from a probe
    assert progress.remaining_seconds() is None  # no epoch of fine-tuning is known
    for epoch, seconds in ((1, 1.0), (2, 1.0), (3, 100.0)):
        progress.epoch("0002", EpochRecord(epoch, {"dev/overall": 0.5}, {}, seconds, 0.0))
    one_probe, one_like_it = 2 * 1.0, 2 * 1.0 + 2 * 100.0
    assert progress.remaining_seconds() == 100.0 + one_probe + one_like_it


def estimate_from_all_rows(progress: Progress, seconds: dict[bool, list[float]]) -> float | None:
    """The time left, computed anew from all rows and epochs."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def rest(row: _Row, epoch: int) -> float:
        num_frozen = max(0, row.num_frozen - epoch)
        return num_frozen * means[0] + (row.num_epochs - epoch - num_frozen) * means[1]

    rows, every = list(progress.rows.values()), seconds[True] + seconds[False]
    longer = [row for row in rows if row.num_epochs > row.num_frozen]
    num_probes = max(0, progress.num_probes - (len(rows) - len(longer)))
    num_longer = max(0, progress.num_trials - len(rows) - num_probes)
    if not every or ((num_longer or longer) and not seconds[False]):
        return None
    means = [mean(seconds[is_frozen] or every) for is_frozen in (True, False)]
    to_run = ("running", "waiting", "stopped")
    total = sum(rest(row, row.epoch) for row in rows if row.state in to_run)
    alike = longer or rows
    ended = [rest(row, 0) - rest(row, row.epoch) for row in alike if row.state not in to_run]
    total += num_longer * mean(ended or [max(rest(row, 0) for row in alike)])
    total += num_probes * max(row.num_frozen for row in rows) * means[0]
    return total / progress.max_concurrent_trials


def test_the_estimate_kept_as_sums_equals_that_from_all_rows() -> None:
    """With sums, an update costs the same for any number of trials."""
    num_estimates = 0
    for seed in range(20):
        draw = random.Random(seed)
        progress = Progress(Console(quiet=True), 12, 3, num_probes=draw.randrange(6))
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(60):
            trial = f"{draw.randrange(14):04d}"
            row = progress.rows.get(trial)
            event = draw.choice(["epoch", "epoch", "epoch", "ended", "lost", "paused", "started"])
            if row is None or event == "started":
                num_frozen = draw.choice([0, 2])
                progress.started(trial, num_frozen + draw.choice([0, 2, 4]) or 1, num_frozen, "")
            elif event == "epoch" and row.epoch < row.num_epochs:
                took = draw.uniform(1, 9)
                record = EpochRecord(row.epoch + 1, {"dev/overall": 0.5}, {}, took, 0.0)
                seconds[record.epoch <= row.num_frozen].append(took)
                progress.epoch(trial, record)
            elif event == "ended":
                progress.ended(trial, draw.choice([Outcome.PRUNED, Outcome.FINISHED]), "")
            elif event in ("lost", "paused"):
                getattr(progress, event)(trial, "")
            found = progress.remaining_seconds()
            expected = estimate_from_all_rows(progress, seconds)
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                assert abs(found - expected) <= 1e-9 * expected
                num_estimates += 1
    assert num_estimates > 500


def test_a_terminal_gets_a_table() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    work = Work("epoch 2/4", 42, 100, 1.0)
    with Progress(console, 1, 1, under_way=lambda trial: work) as progress:
        progress.started("0001-b2", 4, 0, "optim.lr=1e-4 probe.lr=2 model.fcn_size=8")
        progress.epoch("0001-b2", EpochRecord(1, {"dev/overall": 0.5}, {}, 10.0, 0.0))
        progress.ended("0001-b2", Outcome.FINISHED, "ran 4 epochs")
    shown = text.getvalue()
    assert "1/4 +42 %" in shown  # of the second epoch
    assert "optim.lr=1e-4 probe.lr=2 fcn_size=8" in shown
    for part in ("1 of 1 trials", "overall", "0001-b2", "1/4", "0.5000", "finished"):
        assert part in shown


def test_a_trial_without_searched_settings_starts_without_a_comma() -> None:
    text = io.StringIO()
    with Progress(Console(file=text, width=80), 1, 1) as progress:
        progress.started("majority", 1, 0, "")
    assert "majority: started\n" in text.getvalue()
