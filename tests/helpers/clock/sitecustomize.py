"""If on PYTHONPATH: shift each process's wall clock by one of CLOCK_SHIFTS (comma-separated
seconds), chosen by its process id. The monotonic clock is not changed."""

import os
import time

_shifts = os.environ.get("CLOCK_SHIFTS", "0").split(",")
_shift = float(_shifts[os.getpid() % len(_shifts)])
_time, _time_ns, _localtime, _strftime = time.time, time.time_ns, time.localtime, time.strftime


def _shifted_localtime(seconds: float | None = None) -> time.struct_time:
    return _localtime(time.time() if seconds is None else seconds)


def _shifted_strftime(text: str, when: time.struct_time | None = None) -> str:
    return _strftime(text, time.localtime() if when is None else when)


time.time = lambda: _time() + _shift
time.time_ns = lambda: _time_ns() + int(_shift * 1e9)
time.localtime = _shifted_localtime  # type: ignore[assignment]
time.strftime = _shifted_strftime  # type: ignore[assignment]
