"""Ctrl-C and SIGTERM ask for a stop; what runs ends at its next step, with a checkpoint."""

import signal
from types import FrameType

import typer


class StopOnSignal:
    """Asks the loop to stop at the next step on Ctrl-C or SIGTERM; a second one ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        return 75 if self.signal == signal.SIGTERM else 130

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        typer.echo("stopping at the next step; again to stop at once", err=True)
