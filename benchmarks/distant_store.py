"""Read a sweep from a distant object store, simulated in memory with a delay for each response."""

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obstore.store import MemoryStore

from mlflow_setup.filesystem import object_store
from mlflow_setup.filesystem.opening import storage_folder
from search.storage.sweep_folder import SweepFolder


class Away:
    """A store that delays every response; a listing is delayed once per thousand objects."""

    def __init__(self, store: Any, seconds: float, bytes_a_second: float = math.inf) -> None:
        self.store, self.seconds, self.bytes_a_second = store, seconds, bytes_a_second
        self.sent: list[int] = []
        """Bytes of each object that was written."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            time.sleep(self.seconds)
            return getattr(self.store, name)(*given, **more)

        return call

    def put(self, name: str, content: bytes | Path, **more: Any) -> Any:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        self.sent.append(size)
        time.sleep(self.seconds + size / self.bytes_a_second)
        return self.store.put(name, content, **more)

    def list(self, *given: Any) -> Any:
        for batch in self.store.list(*given, chunk_size=1000):
            time.sleep(self.seconds)
            yield batch


def reading_at_a_uri(sweep: Path, away: float) -> float:
    """Seconds until `resume` has read the records of a sweep from an object store, on a machine
    without a working copy."""
    memory = MemoryStore()
    for path in (path for path in sweep.rglob("*") if path.is_file()):
        memory.put(f"s/{path.relative_to(sweep)}", path)
    object_store._open = lambda *_: Away(memory, away)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ENSWEEP_CACHE"] = cache
        root = storage_folder("s3://bucket/sweeps")
        started = time.perf_counter()
        SweepFolder(root, "s").begin()  # `resume` reads it before and after taking the lease
        return time.perf_counter() - started
