"""Wait for a condition, with a timeout long enough for a busy machine."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0
"""Seconds after which a test treats waiting as a hang."""


def wait_until(holds: Callable[[], Any], message: Callable[[], object] = str) -> None:
    """Wait until `holds()` is true; after `PATIENCE` seconds the test fails with `message()`."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, message()
        time.sleep(0.02)
