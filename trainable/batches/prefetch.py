"""Prefetching: items are made in a background thread before they are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], numbers: Iterable[int], depth: int) -> Iterator[Item]:
    """Yield make(number) for each number in order, made up to `depth` items ahead; 0: no thread."""
    if depth == 0:
        yield from map(make, numbers)
        return
    waiting: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(max_workers=1) as thread:
        for number in numbers:
            waiting.append(thread.submit(make, number))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
