"""torch.compile for the encoder's layers where it is faster: measured once for a machine.

Each layer is compiled by itself and for any number of tokens, its attention left out, so that one
compilation serves all layers and batches; a last layer that works for first tokens alone
(`trainable.model.kernels.last_layer`) stays eager. What it made lies in the cache folder, and so
does the
answer whether it pays: the trials of a machine ask once.
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
from trainable.runtime.cache import exclusive_if_kept, keep
from trainable.runtime.stopping import Stop, never

_REPEATS = 5


@dataclass(frozen=True)
class Verdict:
    """What compiling costs and gives."""

    compile_seconds: float  # first pass, once for a machine
    eager_seconds: float  # of the passes timed, median
    compiled_seconds: float

    @property
    def pays(self) -> bool:
        return self.compiled_seconds < self.eager_seconds

    def describe(self) -> str:
        ratio = self.eager_seconds / self.compiled_seconds
        return f"{ratio:.2f} times as fast compiled, {self.compile_seconds:.1f} s to compile"


def can_compile(encoder: nn.Module, device: torch.device, wanted: str) -> bool:
    """Whether to ask at all: `auto` leaves a CPU alone, where nothing was gained."""
    return takes_rows(encoder) and (
        wanted == "always" or (wanted == "auto" and device.type == "cuda")
    )


def compile_layers(encoder: nn.Module, backend: str = "inductor") -> None:
    """Compile each layer in place; weights and their names stay."""
    folder = cache_folder() / "compiled"
    with suppress(OSError):  # else torch has a folder of its own
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    for layer in _layers(encoder):
        layer.compile(dynamic=True, backend=backend)


def uncompile_layers(encoder: nn.Module) -> None:
    """Undo `compile_layers`."""
    for layer in _layers(encoder):
        layer._compiled_call_impl = None


def verdict(
    encoder: nn.Module,
    run: Callable[[], None],
    purpose: str,
    stop: Stop = never,
    backend: str = "inductor",
) -> Verdict:
    """Whether passes are faster compiled; the encoder is left as it is faster.

    Args:
        run: some passes, the same each time, after which the device is idle.
        purpose: what the answer depends on beside the machine and torch: shapes and precision.

    Raises:
        AskedToStop: while another process measured.
    """
    digest = short_hash(f"{purpose} {_machine()} {torch.__version__}", length=32)
    path = cache_folder() / "compiled" / f"{digest}.json"
    with exclusive_if_kept(path, stop):  # trials beside this one would spoil the timing
        measured = _read(path)
        if measured is None:
            run()
            eager = _seconds(run)
            compile_layers(encoder, backend)
            started = time.perf_counter()
            run()
            first = time.perf_counter() - started
            measured = Verdict(first, eager, _seconds(run))
            keep(path, json.dumps(asdict(measured)))
    if measured.pays:
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


def _read(path: Path) -> Verdict | None:
    try:
        return Verdict(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
