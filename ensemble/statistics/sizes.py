"""Which numbers of members are looked at where there are too many to look at all."""

import numpy as np


def spaced_sizes(largest: int, max_sizes: int) -> list[int]:
    """Return at most `max_sizes` numbers from 1 to `largest`, in order and with both ends: all up
    to half of `max_sizes`, then at geometrically growing distances."""
    if largest <= max_sizes:
        return list(range(1, largest + 1))
    few = max_sizes // 2
    rest = np.geomspace(few + 1, largest, max_sizes - few).round().astype(int)
    return [*range(1, few + 1), *sorted(set(rest.tolist()))]
