"""Memory that trials leak in a process that runs several, one after another."""

import ctypes
import gc
import sys
from contextlib import suppress
from dataclasses import dataclass

import psutil

MAX_MAIN, MAX_GPU = 1 << 30, 256 << 20
"""Tolerated bytes; not 0, because the allocator cannot return all freed main memory."""


@dataclass(frozen=True)
class Memory:
    """The memory of a process in bytes."""

    main: int
    gpu: int = 0  # reserved by torch; 0 if it does not use a GPU


def memory_used() -> Memory:
    """The memory of this process, after freed memory was returned to the system.

    glibc keeps it otherwise: 1.2 GB after MiniLM was fine-tuned.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    gpu = 0
    torch = sys.modules.get("torch")  # not imported here: threads must be limited first
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        gpu = int(torch.cuda.memory_reserved())
    return Memory(int(psutil.Process().memory_info().rss), gpu)


class Leftovers:
    """Detects memory that the trials of a process have leaked.

    Main memory is compared with that after the first trial, because libraries, above all CUDA's,
    are loaded with it and stay. GPU memory should be free after each trial.
    """

    def __init__(self) -> None:
        self._first: Memory | None = None

    def has_leaked(self) -> bool:
        """Whether the trials so far have leaked more than `MAX_MAIN` or `MAX_GPU` bytes; called
        after each trial."""
        now = memory_used()
        if self._first is None:
            self._first = now
        return now.main - self._first.main > MAX_MAIN or now.gpu > MAX_GPU
