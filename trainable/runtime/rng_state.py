"""Seed, save and restore the global random generators, which libraries draw from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_globals(seed: int) -> None:
    """Seed the global generators of torch (weights, dropout), NumPy and Python."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def dropout_state(device: torch.device) -> Tensor:
    """The state [bytes] of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_dropout_state(state: Tensor, device: torch.device) -> None:
    """Restore a `dropout_state` [bytes]."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def replayed(state: Tensor, device: torch.device) -> Iterator[None]:
    """Repeat the dropout masks that were drawn from `state` [bytes] on; restore the generator
    afterwards."""
    before = dropout_state(device)
    set_dropout_state(state, device)
    try:
        yield
    finally:
        set_dropout_state(before, device)


def rng_state() -> dict[str, Any]:
    """The states of all global generators, as tensors and plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss_next],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
