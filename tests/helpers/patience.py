"""Waiting for what comes by itself: a busy machine is slow, and no failure."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0
"""Seconds after which a test calls a hang what it waits for."""


def wait_until(holds: Callable[[], Any], else_say: Callable[[], object] = str) -> None:
    """Until it holds; after `PATIENCE` the test fails with what `else_say` says."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, else_say()
        time.sleep(0.02)
