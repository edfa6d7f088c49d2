"""The seconds per epoch that a trial waits for an object store: `python benchmarks/uploads.py`.

The store is simulated in memory, with a latency of 5 ms and a bandwidth of 1 Gbit/s. Of two trials
with the packaged MiniLM one fine-tunes it, one trains heads on it.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from distant_store import Away
from obstore.store import MemoryStore

from mlflow_setup.filesystem import object_store
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.working_copy import WorkingCopy
from mlflow_setup.schema import EpochRecord, Identity, Outcome
from trainable.config.recipe import resolve
from trainable.data.synthetic import write_sample
from trainable.training.train import train

NUM_EPOCHS = 6
WAITS = [name for name in ("publish", "withdraw", "settle") if hasattr(WorkingCopy, name)]


@contextmanager
def waits_counted() -> Iterator[list[float]]:
    """Record the seconds of each call of the main thread into the storage."""
    waited: list[float] = []
    plain = {name: getattr(WorkingCopy, name) for name in WAITS}

    def timed(copy: WorkingCopy, path: Path, *, call: Callable[[WorkingCopy, Path], None]) -> None:
        began = time.perf_counter()
        try:
            call(copy, path)
        finally:
            if threading.current_thread() is threading.main_thread():
                waited.append(time.perf_counter() - began)

    for name, call in plain.items():
        setattr(WorkingCopy, name, partialmethod(timed, call=call))
    try:
        yield waited
    finally:
        for name, call in plain.items():
            setattr(WorkingCopy, name, call)


def trial(folder: Path, *overrides: str) -> tuple[list[float], list[float], float]:
    """Run a trial. Return the seconds of each epoch, those waited in each, and those waited at the
    end."""
    config = resolve(
        "b3", ["model.encoder=minilm", "pretrain.enabled=false", *overrides], {}
    ).config
    reported, sums = [time.perf_counter()], [0.0]
    with waits_counted() as waited:

        def report(_: EpochRecord) -> None:
            reported.append(time.perf_counter())
            sums.append(sum(waited))

        ended = train(config, folder, identity=Identity("t", None, "b3", {}), report=report)
        assert ended.outcome is Outcome.FINISHED
    epochs = [after - before for before, after in pairwise(reported)]
    waits = [after - before for before, after in pairwise(sums)]
    return epochs, waits, sum(waited) - sums[-1]


def main() -> None:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["ENSWEEP_CACHE"] = str(folder / "cache")
        write_sample(folder / "data", num_train=120, num_dev=60)
        heads = ("train.stages=[probe]", f"probe.num_epochs={NUM_EPOCHS}")
        for what, stages in (("heads", heads), ("fine-tuned", ("train.num_epochs=3",))):
            settings = (f"data.dir={folder / 'data'}", *stages)
            for where in ("disk", "store"):
                root, sent = folder / what, list[Any]()
                if where == "store":
                    away = Away(MemoryStore(), 0.005, 125e6)
                    object_store._open = lambda *_, away=away: away  # type: ignore[assignment]
                    root, sent = storage_folder(f"s3://bucket/{what}"), away.sent
                epochs, waits, at_end = trial(root / "s" / "trials" / "0001", *settings)
                print(
                    f"{what}, {where}: an epoch {sum(epochs[1:]) / len(epochs[1:]):.2f} s, of them "
                    f"waited {sum(waits[1:]) / len(waits[1:]):.2f} s; the last {waits[-1]:.2f} s, "
                    f"then {at_end:.2f} s; sent {sum(sent) / 1e6:.0f} MB in {len(sent)} objects",
                    flush=True,
                )


if __name__ == "__main__":
    main()
