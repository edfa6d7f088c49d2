"""Things made in a thread of their own, a few before they are asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def ahead(make: Callable[[int], Made], numbers: Iterable[int], depth: int) -> Iterator[Made]:
    """make(number) for each number in its order, `depth` of them ahead; with 0 when asked for."""
    if depth == 0:
        yield from map(make, numbers)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(max_workers=1) as thread:
        for number in numbers:
            waiting.append(thread.submit(make, number))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
