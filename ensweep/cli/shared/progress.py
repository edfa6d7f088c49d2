"""Show the progress of long work on stderr: bars in a terminal, otherwise a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from trainable.runtime.progress import Work

LINE_SECONDS = 30.0
"""Seconds between two lines without a terminal; the first comes after a third of them."""


@contextmanager
def show_progress(where: "Console | None" = None) -> Iterator[None]:
    """Show the progress of the work in the block.

    Args:
        where: the console; None: stderr.
    """
    from rich.console import Console

    from trainable.runtime.progress import report_to

    console = where or Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        with report_to(_Lines()):
            yield
        return
    with _bars(console) as bars, report_to(bars):
        yield


class _Lines:
    """Prints progress as lines, at most one every `LINE_SECONDS`."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS / 3

    def __call__(self, work: "Work") -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_SECONDS
            typer.echo(work.describe(), err=True)


@contextmanager
def _bars(console: "Console") -> Iterator["_Bars"]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress)


class _Bars:
    """Shows a progress bar for each piece of work while it runs."""

    def __init__(self, progress: "Progress") -> None:
        self.progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._endless: set[str] = set()

    def __call__(self, work: "Work") -> None:
        if work.total is None:  # work without a total ends when the next such work begins
            for what in [name for name in self._endless if name != work.what]:
                self._remove(what)
            self._endless.add(work.what)
        if work.what not in self._tasks:
            self._tasks[work.what] = self.progress.add_task(work.what, total=work.total, facts="")
        task = self._tasks[work.what]
        self.progress.update(task, completed=work.done, total=work.total, facts=work.facts)
        if work.total is not None and work.done >= work.total:
            self._remove(work.what)

    def _remove(self, what: str) -> None:
        self.progress.remove_task(self._tasks.pop(what))
        self._endless.discard(what)
