import numpy as np
import pytest

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.choice.gain_curve import MAX_SIZES, curve_of
from ensemble.choice.task_view import TaskView, views_of
from ensemble.selection.combine import Averaged
from ensemble.selection.sample import Linear
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS

NUM_ROWS, NUM_CANDIDATES = 200, 15


def views(name: str) -> list[TaskView]:
    """Candidates that are right on most rows, as the first halves see them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, NUM_ROWS).astype(np.float64)
    outputs = 2 * labels - 1 + 2 * rng.standard_normal((NUM_CANDIDATES, NUM_ROWS))
    pool = TaskPool(
        task=PAPER_TASKS[name],
        data_fingerprint="data",
        ids=tuple(f"{row:03d}" for row in range(NUM_ROWS)),
        labels=labels,
        candidates=tuple(
            Candidate(f"run{m}", f"{m:02d}", "s", 1, "/none", 0) for m in range(NUM_CANDIDATES)
        ),
        outputs=outputs.astype(np.float32),
        choosable=np.ones((1 + NUM_HALVES, NUM_CANDIDATES), np.bool_),
        listed=np.ones(NUM_CANDIDATES, np.bool_),
    )
    return [view[name] for view in views_of(Pool({name: pool}, (), ()), Averaged.PAPER)[1:]]


@pytest.mark.parametrize("name", ["paraphrase", "similarity"])
def test_a_curve_is_the_mean_gain_of_the_heaviest(name: str) -> None:
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
    assert curve.held_out[0] == curve.low[0] == curve.high[0] == 0  # the best single itself


def test_a_linear_model_is_one_point() -> None:
    """It is scored whole: with some of its weights it would be another model."""
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
