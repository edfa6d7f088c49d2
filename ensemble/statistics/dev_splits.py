"""Dev cut in two, several times over: each half chooses in its turn, and the other judges that.

Legend: N rows, H halves.
"""

import numpy as np
from numpy.typing import NDArray

from trainable.storage.predictions import dev_train_mask

NUM_SPLITS = 3
NUM_HALVES = 2 * NUM_SPLITS


def halves(ids: tuple[str, ...]) -> NDArray[np.bool_]:
    """[H, N] the rows that choose. The first is dev-train; each is followed by what it leaves."""
    cuts = [dev_train_mask(ids, split) for split in range(NUM_SPLITS)]
    return np.array([rows for cut in cuts for rows in (cut, ~cut)])
