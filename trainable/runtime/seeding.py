"""Randomness as an argument: generators that depend on their purpose alone."""

import hashlib

import numpy as np


def generator(*purpose: int | str) -> np.random.Generator:
    """A NumPy generator that depends on `purpose` alone: (seed, "batches", epoch), say."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
