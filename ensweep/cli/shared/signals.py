"""Stop on Ctrl-C, SIGTERM and SIGHUP: the work ends at its next step, with a checkpoint."""

import signal
from types import FrameType
from typing import Any, NoReturn

import typer

from mlflow_setup.errors import INTERRUPTED, STOPPED


class StopOnSignal:
    """Tells a training loop to stop at its next step after a signal; a second signal ends the
    process at once. Calling it returns whether to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal is not None

    def leave(self) -> NoReturn:
        """Exit the stopped command with the exit code for the signal."""
        typer.echo("stopped; run the same command again to continue", err=True)
        raise typer.Exit(INTERRUPTED if self.signal == signal.SIGINT else STOPPED)

    def __enter__(self) -> None:
        from search.driver.stop_switch import leave_terminal  # slow, so not for `--help`

        self._leave_terminal = leave_terminal
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handled = [n for n in signals if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
        self._before = {number: signal.signal(number, self._note) for number in handled}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        typer.echo("stopping at the next step; again to stop at once", err=True)
