"""Wait for a condition, with a timeout long enough for a busy machine."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0
"""Seconds after which a test treats waiting as a hang."""


def wait_until(holds: Callable[[], Any], else_say: Callable[[], object] = str) -> None:
    """Wait until `holds()` is true; after `PATIENCE` the test fails with the message
    `else_say()`."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, else_say()
        time.sleep(0.02)
