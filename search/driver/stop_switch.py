"""Asking every trial of a sweep to stop: on a signal, at the end of a budget, on a full disk.

The first Ctrl-C, SIGTERM or SIGHUP (a lost terminal) has running trials write a checkpoint at their
next step and end as `stopped`; the second ends the driver at once. Either way `ensweep resume` goes
on.
"""

import _thread
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psutil

from mlflow_setup.errors import INTERRUPTED, STOPPED
from mlflow_setup.filesystem.storage import storage_of
from trainable.storage.layout import STOP_REQUEST

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 20.0
"""How long trials may take to stop before they are ended: SIGTERM leaves 30 s on most clouds."""
_LOOK_SECONDS = 1.0  # between looks for a request of `ensweep stop`


class StopSwitch:
    """Off, until something asks for a stop. A block of it listens to signals, and to the file that
    `ensweep stop` leaves beside `file`.

    Args:
        file: what the trials look for.
        say: shows a line to the user.
        resume_hint: the last line when the driver is ended at once.
    """

    def __init__(self, file: Path, say: Callable[[str], None], resume_hint: str = "") -> None:
        self.file, self.say, self.resume_hint = file, say, resume_hint
        self.storage = storage_of(file)
        self.reason: str | None = None
        self.exit_code = 0
        self.has_trials = False  # before the first there is nothing to wait for
        self._must_end = False
        self._before: dict[int, Any] = {}
        self._deadline: threading.Timer | None = None
        self._request = file.with_name(STOP_REQUEST)
        self._has_left = threading.Event()

    @property
    def is_on(self) -> bool:
        return self.reason is not None

    def ask(
        self, reason: str, exit_code: int = STOPPED, grace_seconds: float | None = None
    ) -> None:
        """Stop, once; later reasons are not heard.

        Args:
            grace_seconds: after so long the main thread is interrupted; None: trials take the time
                that their step, or their look at dev, takes.
        """
        if self.is_on:
            return
        self.reason, self.exit_code = reason, exit_code
        with suppress(OSError):  # on a full disk the trials end themselves
            self.storage.raise_flag(self.file)
        self.say(f"stopping: {reason}; trials end at their next step, with a checkpoint")
        if self.has_trials and grace_seconds is not None:
            self._deadline = threading.Timer(grace_seconds, self.interrupt)
            self._deadline.daemon = True
            self._deadline.start()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the main thread: nothing is waited for any longer."""
        self._must_end = True
        _thread.interrupt_main()

    def __enter__(self) -> Self:
        self._lower()
        threading.Thread(target=self._listen, name="stop-request", daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
            self._before = {number: signal.signal(number, self._on_signal) for number in heard}
        return self

    def expect_trials(self) -> None:
        """Wait, from now on, for trials, or for what is made for them. Ray, once started,
        listens to SIGTERM in our place: listen again."""
        self.has_trials = True
        for number in self._before:
            signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        self._has_left.set()
        if self._deadline is not None:
            self._deadline.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        with suppress(OSError):
            self._lower()

    def _lower(self) -> None:
        for flag in (self.file, self._request):
            self.storage.lower_flag(flag)

    def _listen(self) -> None:
        while not self._has_left.wait(_LOOK_SECONDS):
            if self.storage.is_raised(self._request):
                self.ask("ensweep stop")
                if not self.has_trials:
                    self.interrupt()
                return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._must_end:
            self._must_end = False
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            leave_terminal()
        is_ctrl_c = number == signal.SIGINT
        if self.is_on:
            print(self.resume_hint, file=sys.stderr, flush=True)
            _kill_children()  # a Ray that was started here
            os._exit(INTERRUPTED if is_ctrl_c else STOPPED)
        if is_ctrl_c:
            self.ask("Ctrl-C", INTERRUPTED)
        else:
            self.ask(signal.Signals(number).name, STOPPED, GRACE_SECONDS)
        if not self.has_trials:
            raise KeyboardInterrupt


def leave_terminal() -> None:
    """Send what would go to a lost terminal nowhere: writing to it raises."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # isatty is False once it is lost
            os.dup2(nowhere, stream)
    os.close(nowhere)


def _kill_children() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
