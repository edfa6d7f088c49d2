"""Memory that trials leave behind in a process that runs one after another."""

import gc
import sys
from dataclasses import dataclass

import psutil

MAX_MAIN, MAX_GPU = 1 << 30, 256 << 20
"""Bytes that they may leave behind: freed main memory is not all given back."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a process holds."""

    main: int
    gpu: int = 0  # of tensors; 0 until it uses a GPU


def memory_used() -> Memory:
    """Bytes that this process holds, once what is free is given back."""
    gc.collect()
    gpu = 0
    torch = sys.modules.get("torch")  # to be loaded only once the threads are limited
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        gpu = int(torch.cuda.memory_reserved())
    return Memory(int(psutil.Process().memory_info().rss), gpu)


class Leftovers:
    """Compares a process's memory after each of its trials with that after the first.

    Of the GPU nothing should be. Main memory is compared with what it was after the first trial:
    libraries, CUDA's above all, are loaded with it and stay.
    """

    def __init__(self) -> None:
        self._first: Memory | None = None

    def has_leaked(self) -> bool:
        """Whether the trials so far have left more than `MAX_MAIN` or `MAX_GPU` bytes behind."""
        now = memory_used()
        if self._first is None:
            self._first = now
        return now.main - self._first.main > MAX_MAIN or now.gpu > MAX_GPU
