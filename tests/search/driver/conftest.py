"""Fixtures of the driver's tests."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trainable.tune.cluster import Node


@pytest.fixture
def fake_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one node without Ray; like Ray, it installs a handler of SIGTERM."""

    @contextmanager
    def cluster() -> Iterator[list[Node]]:
        before = signal.signal(signal.SIGTERM, lambda *_: os._exit(15))
        yield [Node({"CPU": 2.0})]
        signal.signal(signal.SIGTERM, before)

    monkeypatch.setattr("search.driver.run.cluster", cluster)
