"""Requests to stop."""

from collections.abc import Callable
from itertools import count


def stop_at(number: int) -> Callable[[], bool]:
    """A `stop` that asks to stop at its call of that number only, counted from 1."""
    calls = count(1)
    return lambda: next(calls) == number
