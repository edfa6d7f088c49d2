"""Random generators that are passed as arguments and seeded by what they are used for."""

import hashlib

import numpy as np


def generator(*purpose: int | str) -> np.random.Generator:
    """A NumPy generator that is seeded by `purpose` alone, for example (seed, "batches", epoch)."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
