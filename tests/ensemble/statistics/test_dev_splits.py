"""Dev is split into two halves in three ways."""

import numpy as np

from ensemble.statistics.dev_splits import NUM_HALVES, folds
from trainable.storage.predictions import dev_train_mask


def test_each_half_is_followed_by_its_complement_and_the_first_is_dev_train() -> None:
    ids = tuple(f"row-{number}" for number in range(200))
    whole, *halves = folds(ids)
    assert whole.fit.all()
    assert not whole.judge.any()
    assert all((half.judge == ~half.fit).all() for half in halves)
    found = np.array([half.fit for half in halves])
    assert found.shape == (NUM_HALVES, 200) == (6, 200)
    np.testing.assert_array_equal(found[0], dev_train_mask(ids))
    np.testing.assert_array_equal(found[1::2], ~found[::2])
    np.testing.assert_array_equal(found[2::2], [dev_train_mask(ids, number) for number in (1, 2)])
    assert len({half.tobytes() for half in found}) == 6
