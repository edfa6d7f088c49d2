"""What a sweep shows while it runs: a live table in a terminal, a line an event elsewhere."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
    raise_best,
)
from mlflow_setup.text import duration
from trainable.runtime.progress import Work

SHOWN_ENDED = 12
"""Rows of the live table for the best trials that have ended."""
WIDE = 100
"""Columns of a terminal that has room for each task's score; others have overall's."""
MAX_LOOKED_AT = 24
"""Rows whose trial's folder is looked at for each picture: it may be far away."""
_TO_RUN = ("running", "waiting", "stopped")


@dataclass
class _Row:
    num_epochs: int
    num_frozen: int = 0  # of these, the first ones, which leave the encoder as it is
    epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)  # dev metric -> best so far
    last: dict[str, float] = field(default_factory=dict)
    state: str = "running"
    settings: str = ""  # that the search chose, short
    began: float | None = None  # by this process's clock

    def seconds_from(self, epoch: int, frozen: float, trained: float) -> float:
        """Seconds of the epochs after `epoch`, by those of an epoch of either sort."""
        num_frozen = max(0, self.num_frozen - epoch)
        return num_frozen * frozen + (self.num_epochs - epoch - num_frozen) * trained

    @property
    def overall(self) -> float:
        return self.best.get(OVERALL, float("-inf"))


class Progress:
    """The trials of a sweep as seen from the driver. Shows; keeps nothing that matters.

    Args:
        under_way: how far a trial's process has come within its epoch.
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
        self.epoch_seconds: dict[bool, list[float]] = {True: [], False: []}  # by: encoder frozen
        live = Live(get_renderable=self._table, console=console, refresh_per_second=1)
        self._live = live if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:  # the table stays as it is now
            self._live.stop()

    def started(self, trial: str, num_epochs: int, num_frozen: int, note: str) -> None:
        """A trial begins, or goes on after a crash."""
        row = self.rows.setdefault(trial, _Row(num_epochs, num_frozen))
        row.state, row.began, row.settings = "running", time.monotonic(), _without_sections(note)
        self._show(f"{trial}: started, {note}")

    def past(
        self,
        trial: str,
        num_epochs: int,
        num_frozen: int,
        epochs: Iterable[EpochRecord],
        outcome: OutcomeRecord | None,
    ) -> None:
        """A trial of an earlier driver."""
        row = self.rows[trial] = _Row(num_epochs, num_frozen, state="waiting")
        for record in epochs:
            self._note(row, record)
        if outcome is not None and outcome.outcome.is_terminal:
            row.state = outcome.outcome.value

    def epoch(self, trial: str, record: EpochRecord) -> None:
        """A trial has finished an epoch."""
        row = self.rows[trial]
        self._note(row, record)
        scores = "  ".join(f"{_short(key)} {value:.4f}" for key, value in row.last.items())
        self._show(f"{trial}: epoch {row.epoch}/{row.num_epochs}  {scores}  {self._eta()}")

    def lost(self, trial: str, reason: str) -> None:
        """A trial's process is gone; the trial is tried again."""
        self.rows.setdefault(trial, _Row(0)).state = "waiting"
        self._show(f"{trial}: to be tried again: {reason}")

    def paused(self, trial: str, reason: str) -> None:
        """A trial has no process until it is promoted."""
        self.rows.setdefault(trial, _Row(0)).state = "paused"
        self._show(f"{trial}: paused, {reason}")

    def ended(self, trial: str, outcome: Outcome, reason: str) -> None:
        """A trial has ended."""
        row = self.rows.setdefault(trial, _Row(0))
        row.state = outcome.value
        self._show(f"{trial}: {outcome.value}, {reason}")

    def remaining_seconds(self) -> float | None:
        """An estimate for the whole sweep from the epochs so far; None before the first.

        Epochs that train heads alone take a small part of others: each sort has its own mean, and
        before the first of the others there is no estimate of them.
        """
        rows = list(self.rows.values())
        num_probes = max(0, self.num_probes - sum(row.num_epochs <= row.num_frozen for row in rows))
        num_longer = max(0, self.num_trials - len(rows) - num_probes)
        is_longer = num_longer or any(row.num_epochs > row.num_frozen for row in rows)
        every = [seconds for of_sort in self.epoch_seconds.values() for seconds in of_sort]
        if not every or (is_longer and not self.epoch_seconds[False]):
            return None
        frozen, trained = (_mean(self.epoch_seconds[sort] or every) for sort in (True, False))
        seconds = sum(
            row.seconds_from(row.epoch, frozen, trained) for row in rows if row.state in _TO_RUN
        )
        longer = [row for row in rows if row.num_epochs > row.num_frozen] or rows
        ended = [row for row in longer if row.state not in _TO_RUN]
        usual = [  # stopped trials are shorter than they might be
            row.seconds_from(0, frozen, trained) - row.seconds_from(row.epoch, frozen, trained)
            for row in ended
        ] or [max(row.seconds_from(0, frozen, trained) for row in longer)]
        probe = max(row.num_frozen for row in rows) * frozen
        seconds += num_longer * _mean(usual) + num_probes * probe
        return seconds / self.max_concurrent_trials

    def _note(self, row: _Row, record: EpochRecord) -> None:
        row.epoch, row.last = record.epoch, dev_metrics(record.metrics)
        raise_best(row.best, record)
        self.epoch_seconds[record.epoch <= row.num_frozen].append(record.seconds)

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
        rows = dict(self.rows)  # the driver adds to them while they are shown
        num_ended = sum(row.state not in _TO_RUN for row in rows.values())
        title = f"{num_ended} of {self.num_trials} trials, best scores of each; {self._eta()}"
        table = Table(title=title.rstrip("; "), title_justify="left", box=SIMPLE)
        metrics = list(dict.fromkeys(key for row in rows.values() for key in list(row.best)))
        if self.console.width < WIDE or len(metrics) == 2:  # of one task: its score is overall's
            metrics = [key for key in metrics if key == OVERALL]
        running = [item for item in rows.items() if item[1].state in _TO_RUN]
        ended = [item for item in rows.items() if item[1].state not in _TO_RUN]
        best = sorted(ended, key=lambda item: item[1].overall, reverse=True)[:SHOWN_ENDED]
        lines = [
            self._cells(trial, row, metrics, number < MAX_LOOKED_AT)
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
        self, trial: str, row: _Row, metrics: Sequence[str], is_looked_at: bool
    ) -> tuple[str, ...]:
        is_running = row.state == "running"
        scores = (f"{row.best[key]:.4f}" if key in row.best else "" for key in metrics)
        within = self._within(trial) if is_running and is_looked_at else ""
        took = duration(time.monotonic() - row.began) if is_running and row.began else ""
        epoch = f"{row.epoch}/{row.num_epochs}{within}"
        return trial, epoch, *scores, row.state, took, row.settings

    def _within(self, trial: str) -> str:
        """` +42 %` of the epoch under way, or of what comes before it."""
        work = self.under_way(trial)
        return "" if work is None or work.fraction is None else f" +{100 * work.fraction:.0f} %"


def _short(key: str) -> str:
    """`dev/sentiment/accuracy` -> `sentiment`."""
    return key.split("/")[1]


def _without_sections(note: str) -> str:
    """`optim.lr=1e-4` -> `lr=1e-4`, where no other setting has that last name."""
    keys = [pair.partition("=")[0] for pair in note.split()]
    last = [key.rpartition(".")[2] for key in keys]
    times = Counter(last)
    return " ".join(
        pair[len(key) - len(name) :] if times[name] == 1 else pair
        for pair, key, name in zip(note.split(), keys, last, strict=True)
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
