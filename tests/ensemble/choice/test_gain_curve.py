import numpy as np
import pytest
from pools import task_pool

from ensemble.candidates.pool import Candidate, Pool
from ensemble.choice.gain_curve import MAX_SIZES, curve_of
from ensemble.choice.task_view import TaskView, views_of
from ensemble.selection.combine import Averaged
from ensemble.selection.sample import Linear

NUM_ROWS, NUM_CANDIDATES = 200, 15


def views(name: str) -> list[TaskView]:
    """Views of each half on candidates that are right on most rows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, NUM_ROWS).astype(np.float64)
    outputs = 2 * labels - 1 + 2 * rng.standard_normal((NUM_CANDIDATES, NUM_ROWS))
    candidates = [Candidate(f"run{m}", f"{m:02d}", "s", 1, "/none", 0) for m in range(len(outputs))]
    pool = task_pool(name, labels, candidates, outputs)
    return [view[name] for view in views_of(Pool({name: pool}, (), ()), Averaged.PAPER)[1:]]


@pytest.mark.parametrize("name", ["paraphrase", "similarity"])
def test_a_curve_is_the_mean_gain_of_the_heaviest_members(name: str) -> None:
    halves = views(name)[:2]
    weights = np.array([0.1, 0.4, 0.2, 0.3] + [0.0] * 11)
    few = np.array([0.0, 0.0, 0.5, 0.5] + [0.0] * 11)
    single = np.eye(NUM_CANDIDATES)[1]
    curve = curve_of(halves, [weights, few], [single, single])
    assert curve.sizes == (1, 2, 3, 4)
    heaviest = [[[1], [1, 3], [1, 3, 2], [1, 3, 2, 0]], [[2], [2, 3], [2, 3], [2, 3]]]
    for k in range(4):
        for found, which in ((curve.in_sample, "fit"), (curve.held_out, "judge")):
            gains = []
            for half, of_half, prefixes in zip(halves, (weights, few), heaviest, strict=True):
                some, rows = prefixes[k], getattr(half.fold, which)
                share = half.scatter(some, of_half[some] / of_half[some].sum())
                gains.append(half.score(share, rows) - half.score(single, rows))
            assert found[k] == pytest.approx(np.mean(gains))
        assert curve.low[k] <= curve.held_out[k] <= curve.high[k]
    assert curve.high[3] - curve.low[3] > 0.01


def test_a_curve_of_many_members_has_few_points() -> None:
    every, single = np.full(NUM_CANDIDATES, 1 / NUM_CANDIDATES), np.eye(NUM_CANDIDATES)[0]
    curve = curve_of(views("paraphrase")[:1], [every], [single])
    assert curve.sizes[:6] == (1, 2, 3, 4, 5, 6)
    assert curve.sizes[-1] == NUM_CANDIDATES
    assert len(curve.sizes) <= MAX_SIZES
    assert len(set(curve.sizes)) == len(curve.sizes) == len(curve.held_out)
    # the first member is the best single one
    assert curve.held_out[0] == curve.low[0] == curve.high[0] == 0


def test_the_curve_of_a_linear_model_has_one_point() -> None:
    """With some of its weights only it would be another model."""
    halves, single = views("paraphrase")[:2], np.eye(NUM_CANDIDATES)[0]
    weights = np.array([3.0, -1.0, 0.5] + [0.0] * 12)
    models = [Linear(weights, np.array([0.2 * half])) for half in (1, 2)]
    curve = curve_of(halves, models, [single, single])
    assert curve.sizes == (3,)
    gains = [
        half.score(model, half.fold.judge) - half.score(single, half.fold.judge)
        for half, model in zip(halves, models, strict=True)
    ]
    assert curve.held_out == pytest.approx([np.mean(gains)])
    assert curve.low[0] < curve.held_out[0] < curve.high[0]
