"""Repeated two-fold splits of dev: the ensemble is chosen on one half and scored on the other.

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
    """A split of a task's rows."""

    fit: Mask  # [N] rows that the ensemble is chosen on
    judge: Mask  # [N] held-out rows that it is scored on; none where it is chosen on all of dev


def folds(ids: Sequence[str]) -> tuple[Fold, ...]:
    """Return [1 + H] folds: all of dev, then the halves, each followed by its complement; the
    first half is dev-train.

    Args:
        ids: [N] of the rows.
    """
    whole = np.ones(len(ids), np.bool_)
    cuts = [dev_train_mask(tuple(ids), split) for split in range(NUM_SPLITS)]
    halves = [Fold(fit, ~fit) for cut in cuts for fit in (cut, ~cut)]
    return Fold(whole, ~whole), *halves
