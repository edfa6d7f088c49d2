"""torch.compile for the encoder's layers where it is faster, measured once per machine.

Layers are compiled one by one, for any number of tokens and without their attention, so that one
compilation serves all layers and batches. A last layer that computes first tokens only
(`trainable.model.kernels.last_layer`) is not compiled. The compiled code and the measurement are
stored in the cache folder, where all trials of the machine find them.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.text import short_hash
from trainable.model.encoder import takes_rows
from trainable.runtime.cache import exclusive_if_writable, write_cached
from trainable.runtime.stopping import Stop, never_stop

_REPEATS = 5


@dataclass(frozen=True)
class CompileTiming:
    """The cost and the benefit of compilation."""

    compile_seconds: float  # of the first pass, once per machine
    eager_seconds: float  # median of the timed passes
    compiled_seconds: float

    @property
    def is_faster(self) -> bool:
        return self.compiled_seconds < self.eager_seconds

    def describe(self) -> str:
        ratio = self.eager_seconds / self.compiled_seconds
        return f"{ratio:.2f} times as fast compiled, {self.compile_seconds:.1f} s to compile"


def can_compile(encoder: nn.Module, device: torch.device, setting: str) -> bool:
    """Whether compilation is possible and `train.compile` allows it on the device.

    `auto` never compiles on a CPU, where it was no faster.
    """
    return takes_rows(encoder) and (
        setting == "always" or (setting == "auto" and device.type == "cuda")
    )


def compile_layers(encoder: nn.Module, backend: str = "inductor") -> None:
    """Compile each layer in place; weights and their names do not change."""
    folder = cache_folder() / "compiled"
    with suppress(OSError):  # torch then uses its default folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    for layer in _layers(encoder):
        layer.compile(dynamic=True, backend=backend)


def uncompile_layers(encoder: nn.Module) -> None:
    """Undo `compile_layers`."""
    for layer in _layers(encoder):
        layer._compiled_call_impl = None


def compile_if_faster(
    encoder: nn.Module,
    run: Callable[[], None],
    purpose: str,
    stop: Stop = never_stop,
    backend: str = "inductor",
) -> CompileTiming:
    """Time the encoder eager and compiled, or read the timing from the cache; leave it compiled if
    that is faster.

    Args:
        run: runs the same passes each time, and returns when the device is idle.
        purpose: all that the timing depends on besides the machine and torch: shapes, precision.

    Raises:
        StopRequested: while another process measured.
    """
    digest = short_hash(f"{purpose} {_machine()} {torch.__version__}", length=32)
    path = cache_folder() / "compiled" / f"{digest}.json"
    with exclusive_if_writable(path, stop):  # another trial's timing would disturb this one
        measured = _read(path)
        if measured is None:
            run()
            eager = _seconds(run)
            compile_layers(encoder, backend)
            started = time.perf_counter()
            run()
            first = time.perf_counter() - started
            measured = CompileTiming(first, eager, _seconds(run))
            write_cached(path, json.dumps(asdict(measured)))
    if measured.is_faster:
        compile_layers(encoder, backend)
    else:
        uncompile_layers(encoder)
    return measured


def _layers(encoder: nn.Module) -> list[nn.Module]:
    return list(encoder.encoder.layer)  # type: ignore[union-attr,arg-type]


def _seconds(run: Callable[[], None]) -> float:
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


def _machine() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _read(path: Path) -> CompileTiming | None:
    try:
        return CompileTiming(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
