"""Ctrl-C, SIGTERM and SIGHUP ask for a stop; what runs ends at its next step, with a checkpoint."""

import signal
from types import FrameType
from typing import Any, NoReturn

import typer

from mlflow_setup.errors import INTERRUPTED, STOPPED


class StopOnSignal:
    """Asks the loop to stop at the next step on a signal; a second one ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal is not None

    def leave(self) -> NoReturn:
        """End the command that was stopped, with the exit code of the signal."""
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED if self.signal == signal.SIGINT else STOPPED)

    def __enter__(self) -> None:
        from search.driver.stop_switch import leave_terminal  # not for `--help`, nor in a handler

        self._leave_terminal = leave_terminal
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heard = [n for n in signals if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
        self._before = {number: signal.signal(number, self._note) for number in heard}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        typer.echo("stopping at the next step; again to stop at once", err=True)
