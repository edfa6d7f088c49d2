"""Progress of a running sweep: a live table in a terminal, else a line for each event."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mlflow_setup.schema import (
    OVERALL,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    dev_metrics,
    update_best,
)
from mlflow_setup.text import duration
from trainable.runtime.progress import Work

SHOWN_ENDED = 12
"""Rows of the live table for the best trials that have ended."""
WIDE = 100
"""Terminal width, in columns, from which on the table shows each task's score besides overall."""
MAX_READ = 24
"""Rows for which a refresh reads the trial's folder, which may be on remote storage."""
_TO_RUN = ("running", "waiting", "stopped")
_BOTH = (True, False)


@dataclass
class _Row:
    num_epochs: int
    num_frozen: int = 0  # how many of these, at the start, train only the heads
    epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)  # dev metric -> best so far
    last: dict[str, float] = field(default_factory=dict)
    state: str = "running"
    settings: str = ""  # the searched ones, abbreviated
    began: float | None = None  # by this process's monotonic clock

    @property
    def overall(self) -> float:
        return self.best.get(OVERALL, float("-inf"))

    @property
    def is_longer(self) -> bool:
        """Whether it trains its encoder."""
        return self.num_epochs > self.num_frozen

    @property
    def is_to_run(self) -> bool:
        return self.state in _TO_RUN

    @property
    def whole(self) -> tuple[int, int]:
        """Number of its epochs that train only heads, and of those that train the encoder too."""
        return self.num_frozen, self.num_epochs - self.num_frozen

    @property
    def counts(self) -> tuple[int, int, int]:
        """1 (trial), and the number of epochs of either kind: still to run, or run if it ended."""
        frozen, trained = min(self.epoch, self.num_frozen), max(0, self.epoch - self.num_frozen)
        if self.is_to_run:
            frozen, trained = self.whole[0] - frozen, self.whole[1] - trained
        return 1, frozen, trained


class Progress:
    """Shows the progress of a sweep's trials. It holds no state that the sweep needs.

    Args:
        under_way: returns the progress of a trial within its current epoch.
    """

    def __init__(
        self,
        console: Console,
        num_trials: int,
        max_concurrent_trials: int,
        num_probes: int = 0,
        under_way: Callable[[str], Work | None] = lambda trial: None,
    ) -> None:
        self.under_way = under_way
        self.console, self.num_trials, self.num_probes = console, num_trials, num_probes
        self.max_concurrent_trials = max_concurrent_trials
        self.rows: dict[str, _Row] = {}
        # Running sums, so that an event does not iterate over thousands of rows.
        self._counts = {(longer, to_run): [0, 0, 0] for longer in _BOTH for to_run in _BOTH}
        self._wholes: dict[bool, set[tuple[int, int]]] = {longer: set() for longer in _BOTH}
        self._seconds = {is_frozen: [0, 0.0] for is_frozen in _BOTH}  # of epochs: number, sum
        live = Live(get_renderable=self._table, console=console, refresh_per_second=1)
        self._live = live if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:  # the last table stays on the screen
            self._live.stop()

    def started(self, trial: str, num_epochs: int, num_frozen: int, note: str) -> None:
        """Show a trial that starts, or continues after a crash; `note`: its searched settings."""
        with self._changed(trial, num_epochs, num_frozen) as row:
            row.state, row.settings = "running", _without_sections(note)
        row.began = time.monotonic()
        self._show(f"{trial}: started" + (f", {note}" if note else ""))

    def past(
        self,
        trial: str,
        num_epochs: int,
        num_frozen: int,
        epochs: Iterable[EpochRecord],
        outcome: OutcomeRecord | None,
    ) -> None:
        """Take in a trial of an earlier driver."""
        with self._changed(trial, num_epochs, num_frozen) as row:
            row.state = "waiting"
            for record in epochs:
                self._add(row, record)
            if outcome is not None and outcome.outcome.is_terminal:
                row.state = outcome.outcome.value

    def epoch(self, trial: str, record: EpochRecord) -> None:
        """Show an epoch that a trial has finished."""
        with self._changed(trial) as row:
            self._add(row, record)
        scores = "  ".join(f"{_short(key)} {value:.4f}" for key, value in row.last.items())
        self._show(f"{trial}: epoch {row.epoch}/{row.num_epochs}  {scores}  {self._eta()}")

    def lost(self, trial: str, reason: str) -> None:
        """Show a trial whose process was lost, and which is retried."""
        with self._changed(trial) as row:
            row.state = "waiting"
        self._show(f"{trial}: will be retried: {reason}")

    def paused(self, trial: str, reason: str) -> None:
        """Show a trial that is paused until it is promoted."""
        with self._changed(trial) as row:
            row.state = "paused"
        self._show(f"{trial}: paused, {reason}")

    def ended(self, trial: str, outcome: Outcome, reason: str) -> None:
        """Show a trial that has ended."""
        with self._changed(trial) as row:
            row.state = outcome.value
        self._show(f"{trial}: {outcome.value}, {reason}")

    def remaining_seconds(self) -> float | None:
        """Estimate the remaining seconds of the sweep from the epochs so far; None without any.

        Epochs that train only heads are much shorter than others, so each kind has its own mean.
        While trials are left that train the encoder, and no such epoch has run, there is no
        estimate.
        """
        num_shorter = sum(self._counts[False, to_run][0] for to_run in _BOTH)
        num_probes = max(0, self.num_probes - num_shorter)
        num_longer = max(0, self.num_trials - len(self.rows) - num_probes)
        has_longer = bool(self._wholes[True])
        (num_frozen, frozen), (num_trained, trained) = self._seconds.values()
        both = num_frozen + num_trained, frozen + trained
        if not both[0] or ((num_longer or has_longer) and not num_trained):
            return None
        means = [
            total / number
            for number, total in (known if known[0] else both for known in self._seconds.values())
        ]
        seconds = sum(_seconds(self._counts[longer, True][1:], means) for longer in _BOTH)
        num_ended, *ended = self._counts[has_longer, False]
        if num_ended:  # the mean length of trials that ended: some were stopped early
            usual = _seconds(ended, means) / num_ended
        else:
            usual = max(_seconds(whole, means) for whole in tuple(self._wholes[has_longer]))
        probe = max(whole[0] for longer in _BOTH for whole in tuple(self._wholes[longer]))
        seconds += num_longer * usual + num_probes * probe * means[0]
        return seconds / self.max_concurrent_trials

    @contextmanager
    def _changed(self, trial: str, num_epochs: int = 0, num_frozen: int = 0) -> Iterator[_Row]:
        """Yield the trial's row, a new one of this length if it has none, and update the sums."""
        row = self.rows.get(trial)
        if row is not None:
            self._count(row, -1)
        else:
            row = self.rows[trial] = _Row(num_epochs, num_frozen)
        yield row
        self._count(row, 1)

    def _count(self, row: _Row, sign: int) -> None:
        self._wholes[row.is_longer].add(row.whole)
        total = self._counts[row.is_longer, row.is_to_run]
        total[:] = [one + sign * other for one, other in zip(total, row.counts, strict=True)]

    def _add(self, row: _Row, record: EpochRecord) -> None:
        row.epoch, row.last = record.epoch, dev_metrics(record.metrics)
        update_best(row.best, record)
        of_kind = self._seconds[record.epoch <= row.num_frozen]
        of_kind[:] = of_kind[0] + 1, of_kind[1] + record.seconds

    def _eta(self) -> str:
        seconds = self.remaining_seconds()
        if seconds is None:
            return ""
        return f"about {duration(seconds)} left"

    def _show(self, line: str) -> None:
        if self._live is None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._live.refresh()

    def _table(self) -> Table:
        rows = dict(self.rows)  # another thread draws the table while the driver adds rows
        num_ended = sum(not row.is_to_run for row in rows.values())
        title = f"{num_ended} of {self.num_trials} trials, best scores of each; {self._eta()}"
        table = Table(title=title.rstrip("; "), title_justify="left", box=SIMPLE)
        metrics = list(dict.fromkeys(key for row in rows.values() for key in list(row.best)))
        if self.console.width < WIDE or len(metrics) == 2:  # with one task, its score is overall
            metrics = [key for key in metrics if key == OVERALL]
        running = [item for item in rows.items() if item[1].is_to_run]
        ended = [item for item in rows.items() if not item[1].is_to_run]
        best = sorted(ended, key=lambda item: item[1].overall, reverse=True)[:SHOWN_ENDED]
        lines = [
            self._cells(trial, row, metrics, number < MAX_READ)
            for number, (trial, row) in enumerate([*running, *best])
        ]
        headers = ["trial", "epoch", *map(_short, metrics), "state", "time"]
        columns = zip(headers, *(line[:-1] for line in lines), strict=True)
        room = self.console.width - sum(max(map(len, column)) + 3 for column in columns) - 4
        for header in headers:
            table.add_column(header, no_wrap=True)
        table.add_column("settings", no_wrap=True, overflow="ellipsis", max_width=max(16, room))
        for line in lines:
            table.add_row(*map(escape, line))
        return table

    def _cells(
        self, trial: str, row: _Row, metrics: Sequence[str], is_read: bool
    ) -> tuple[str, ...]:
        is_running = row.state == "running"
        scores = (f"{row.best[key]:.4f}" if key in row.best else "" for key in metrics)
        within = self._within(trial) if is_running and is_read else ""
        took = duration(time.monotonic() - row.began) if is_running and row.began else ""
        epoch = f"{row.epoch}/{row.num_epochs}{within}"
        return trial, epoch, *scores, row.state, took, row.settings

    def _within(self, trial: str) -> str:
        """Return ` +42 %`, the progress within the current epoch or the work before it, or ""."""
        work = self.under_way(trial)
        return "" if work is None or work.fraction is None else f" +{100 * work.fraction:.0f} %"


def _short(key: str) -> str:
    """Return the task: `dev/sentiment/accuracy` -> `sentiment`."""
    return key.split("/")[1]


def _without_sections(note: str) -> str:
    """Abbreviate `optim.lr=1e-4` to `lr=1e-4` unless another setting ends in the same name."""
    keys = [pair.partition("=")[0] for pair in note.split()]
    last = [key.rpartition(".")[2] for key in keys]
    times = Counter(last)
    return " ".join(
        pair[len(key) - len(name) :] if times[name] == 1 else pair
        for pair, key, name in zip(note.split(), keys, last, strict=True)
    )


def _seconds(epochs: Sequence[int], means: Sequence[float]) -> float:
    return sum(number * mean for number, mean in zip(epochs, means, strict=True))
