"""Prefetched items come in order, at most `depth` ahead; an error is raised at its item."""

import threading

import pytest

from trainable.batches.prefetch import prefetch


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_items_come_in_order(depth: int) -> None:
    assert list(prefetch(lambda n: n * n, range(20), depth)) == [n * n for n in range(20)]


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_is_raised_at_its_item(depth: int) -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    found = prefetch(make, range(10), depth)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)


def test_at_most_depth_items_are_made_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 2:
            second.set()
        return number

    found = prefetch(make, range(100), 2)
    assert next(found) == 0
    assert second.wait(5)
    found.close()
    assert len(made) <= 4


def test_with_depth_0_no_item_is_made_ahead() -> None:
    made: list[int] = []
    found = prefetch(lambda n: made.append(n), range(5), 0)
    next(found)
    assert made == [0]
