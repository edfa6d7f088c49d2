"""A clean stop of all trials of a sweep: on a signal, at the end of a budget, on a full disk.

After the first Ctrl-C, SIGTERM or SIGHUP (a lost terminal) running trials write a checkpoint at
their next step and end as `stopped`; the second ends the driver at once. In both cases `ensweep
resume` continues the sweep.
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
"""How long trials may take to stop before they are killed: most clouds give 30 s after SIGTERM."""
_POLL_SECONDS = 1.0  # between checks for a request of `ensweep stop`


class StopSwitch:
    """Off until a stop is requested. As a context manager it handles signals, and the request file
    that `ensweep stop` writes beside `file`.

    Args:
        file: the stop file, which the trials watch.
        show: shows a line to the user.
        resume_hint: the last line when the driver is ended at once.
    """

    def __init__(self, file: Path, show: Callable[[str], None], resume_hint: str = "") -> None:
        self.file, self.show, self.resume_hint = file, show, resume_hint
        self.storage = storage_of(file)
        self.reason: str | None = None
        self.exit_code = 0
        self.has_trials = False  # else there is nothing to wait for
        self._is_interrupted = False
        self._handlers: dict[int, Any] = {}  # signal -> handler before the block
        self._deadline: threading.Timer | None = None
        self._request_file = file.with_name(STOP_REQUEST)
        self._has_left = threading.Event()

    @property
    def is_on(self) -> bool:
        return self.reason is not None

    def request(
        self, reason: str, exit_code: int = STOPPED, grace_seconds: float | None = None
    ) -> None:
        """Request a stop. Further requests have no effect.

        Args:
            grace_seconds: the main thread is interrupted after this time; None: trials may take as
                long as their current step, or evaluation, takes.
        """
        if self.is_on:
            return
        self.reason, self.exit_code = reason, exit_code
        with suppress(OSError):  # on a full disk the trials end by themselves
            self.storage.raise_flag(self.file)
        self.show(f"stopping: {reason}; trials end at their next step, with a checkpoint")
        if self.has_trials and grace_seconds is not None:
            self._deadline = threading.Timer(grace_seconds, self.interrupt)
            self._deadline.daemon = True
            self._deadline.start()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the main thread, so that it waits for nothing any longer."""
        self._is_interrupted = True
        _thread.interrupt_main()

    def __enter__(self) -> Self:
        self._lower()
        threading.Thread(target=self._listen, name="stop-request", daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            handled = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
            self._handlers = {number: signal.signal(number, self._on_signal) for number in handled}
        return self

    def expect_trials(self) -> None:
        """Let a stop wait for trials, or for artifacts that are made for them.

        Call it after Ray has started, which replaces the handler of SIGTERM: it is set again.
        """
        self.has_trials = True
        for number in self._handlers:
            signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        self._has_left.set()
        if self._deadline is not None:
            self._deadline.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        with suppress(OSError):
            self._lower()

    def _lower(self) -> None:
        for flag in (self.file, self._request_file):
            self.storage.lower_flag(flag)

    def _listen(self) -> None:
        while not self._has_left.wait(_POLL_SECONDS):
            if self.storage.is_raised(self._request_file):
                self.request("ensweep stop")
                if not self.has_trials:
                    self.interrupt()
                return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_interrupted:
            self._is_interrupted = False
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            leave_terminal()
        is_ctrl_c = number == signal.SIGINT
        if self.is_on:
            print(self.resume_hint, file=sys.stderr, flush=True)
            _kill_children()  # Ray, if it was started by this process
            os._exit(INTERRUPTED if is_ctrl_c else STOPPED)
        if is_ctrl_c:
            self.request("Ctrl-C", INTERRUPTED)
        else:
            self.request(signal.Signals(number).name, STOPPED, GRACE_SECONDS)
        if not self.has_trials:
            raise KeyboardInterrupt


def leave_terminal() -> None:
    """Redirect stdout and stderr from a lost terminal to /dev/null: writing to it raises."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # isatty is False for a lost terminal
            os.dup2(devnull, stream)
    os.close(devnull)


def _kill_children() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
