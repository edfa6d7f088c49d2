"""Dev cut in two, several times over: each half chooses in its turn, and the other judges that.

Legend: N rows, H halves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.statistics.arrays import Mask
from trainable.storage.predictions import dev_train_mask

NUM_SPLITS = 3
NUM_HALVES = 2 * NUM_SPLITS


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of a task by what they are for."""

    fit: Mask  # [N] these choose
    judge: Mask  # [N] held out: they score what was chosen; none where all of dev chooses


def folds(ids: Sequence[str]) -> tuple[Fold, ...]:
    """[1 + H] all of dev, then its halves: dev-train first, each followed by what it leaves.

    Args:
        ids: [N] of the rows.
    """
    whole = np.ones(len(ids), np.bool_)
    cuts = [dev_train_mask(tuple(ids), split) for split in range(NUM_SPLITS)]
    halves = [Fold(fit, ~fit) for cut in cuts for fit in (cut, ~cut)]
    return Fold(whole, ~whole), *halves
