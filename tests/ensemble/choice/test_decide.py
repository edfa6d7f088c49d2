"""Properties of the choice that hold for random pools."""

import dataclasses
import math

import numpy as np
import pytest
from little_effort import LITTLE
from pools import TASKS, task_pool

from ensemble.candidates.pool import Candidate, Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.decide import preferred
from ensemble.choice.pareto import Level, Option
from ensemble.choice.result import EnsembleChoice, Method, Prefer
from ensemble.presentation.words import verdict
from trainable.config.tasks import PAPER_TASKS, Kind

NUM_ROWS = 90


def labels_of(name: str, rng: np.random.Generator) -> np.ndarray:
    kind = PAPER_TASKS[name].kind
    if kind is Kind.SIMILARITY:
        return rng.uniform(0, 5, NUM_ROWS)
    return rng.integers(0, 5 if kind is Kind.CLASSIFICATION else 2, NUM_ROWS).astype(np.float64)


def outputs_of(name: str, labels: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Outputs of a candidate, which is better the less noise there is."""
    kind = PAPER_TASKS[name].kind
    signal = np.eye(5)[labels.astype(int)] if kind is Kind.CLASSIFICATION else labels
    signal = 2 * labels - 1 if kind is Kind.PARAPHRASE else signal
    return np.asarray(signal + noise * rng.standard_normal(signal.shape), np.float32)


def random_pool(seed: int, num_bad: int = 0) -> Pool:
    """Three to nine candidates of random skill and size, each with every task, and bad ones with
    shuffled labels. The bad ones do not change what is drawn for the others."""
    rng, other_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    noises = rng.uniform(0.4, 1.6, rng.integers(3, 10))
    candidates = [
        Candidate(f"run{m}", f"{m:04d}", "s", 1, "/none", int(rng.integers(1, 9)) * 10**6)
        for m in range(len(noises))
    ]
    bad_ones = [Candidate(f"bad{m}", f"bad{m}", "s", 1, "/none", 10**6) for m in range(num_bad)]
    tasks, every = {}, tuple(sorted([*candidates, *bad_ones], key=lambda c: c.order))
    for name in TASKS:
        labels = labels_of(name, rng)
        outputs = dict(
            zip(candidates, (outputs_of(name, labels, n, rng) for n in noises), strict=True)
        )
        for bad in bad_ones:
            shuffled = labels[other_rng.permutation(NUM_ROWS)]
            outputs[bad] = outputs_of(name, shuffled, 0.5, other_rng)
        tasks[name] = task_pool(name, labels, every, np.stack([outputs[c] for c in every]))
    return Pool(tasks, every, ())


def selected_weights(choice: EnsembleChoice) -> dict[str, dict[str, float]]:
    return {
        name: {m.candidate.key: m.weight for m in task.selective.members}
        for name, task in choice.tasks.items()
    }


@pytest.fixture(scope="module", params=range(6))
def pair(request: pytest.FixtureRequest) -> tuple[EnsembleChoice, EnsembleChoice]:
    """The choice of a pool, and of the same one with two bad candidates."""
    pools = (random_pool(request.param), random_pool(request.param, num_bad=2))
    return choose(pools[0], effort=LITTLE), choose(pools[1], effort=LITTLE)


def test_no_cheaper_point_of_the_front_scores_higher_than_the_choice(
    pair: tuple[EnsembleChoice, EnsembleChoice],
) -> None:
    for choice in pair:
        members = choice.candidates(Method.SELECTIVE)
        (own,) = (point for point in choice.front if point.candidates == members)
        for point in choice.front:
            assert (
                point is own
                or point.cost > own.cost
                or (point.scores.held_out < own.scores.held_out)
            )


def test_bad_candidates_change_nothing(pair: tuple[EnsembleChoice, EnsembleChoice]) -> None:
    before, after = pair
    assert selected_weights(before) == selected_weights(after)
    assert before.front == after.front
    assert before.overall[Method.SELECTIVE] == after.overall[Method.SELECTIVE]
    assert verdict(before) == verdict(after)


def test_no_task_is_clearly_below_its_best_single(
    pair: tuple[EnsembleChoice, EnsembleChoice],
) -> None:
    for choice in pair:
        if len(choice.candidates(Method.SELECTIVE)) > 1:
            for task in choice.tasks.values():
                assert task.gains[Method.BEST_SINGLE].high >= 0


def test_a_single_model_is_chosen_unless_more_is_a_clear_gain(
    pair: tuple[EnsembleChoice, EnsembleChoice],
) -> None:
    for choice in pair:
        assert choice.one_for_all is not None
        members = choice.candidates(Method.SELECTIVE)
        assert len(members) == 1 or choice.one_for_all.gain.is_clear
        if choice.declined is not None:
            assert not dataclasses.replace(
                choice.declined.gain,
                low=-choice.declined.gain.high,
                high=-choice.declined.gain.low,
            ).is_clear
            assert verdict(choice).endswith(", which may be noise")


def test_the_preference_orders_choices_by_cost() -> None:
    pool = random_pool(1)
    score, balanced, single = (choose(pool, effort=LITTLE, prefer=p) for p in Prefer)
    costs = [c.cost(c.candidates(Method.SELECTIVE)) for c in (score, balanced, single)]
    assert costs == sorted(costs, reverse=True)
    assert len(single.candidates(Method.SELECTIVE)) == 1
    best = max(score.front, key=lambda point: point.scores.held_out)
    assert best.candidates == score.candidates(Method.SELECTIVE)


def level(cost: int, num_members: int = 2) -> Level:
    members = tuple(Candidate("r", f"{cost}.{n}", "s", 1, "/w", 1) for n in range(num_members))
    return Level(Option({}, members, cost, 0.0), ())


@pytest.mark.parametrize(
    ("prefer", "noise", "max_cost", "expected"),
    [
        (Prefer.SCORE, 0.05, math.inf, 2),
        (Prefer.BALANCED, 0.05, math.inf, 0),
        (Prefer.BALANCED, 0.015, math.inf, 1),
        (Prefer.BALANCED, 0.005, math.inf, 2),
        (Prefer.BALANCED, 0.005, 25, 1),
        (Prefer.SINGLE, 0.005, math.inf, 0),
        (Prefer.SCORE, 0.005, 5, 0),
    ],
)
def test_balanced_prefers_the_cheapest_within_one_standard_error_of_the_best(
    prefer: Prefer, noise: float, max_cost: float, expected: int
) -> None:
    levels = [level(10, 1), level(20), level(30)]
    flips = np.array([1.0, -1.0] * 100)
    scores = ((0.68, noise), (0.69, noise), (0.7, 0.0))
    total = np.array([[score, *(score + spread * flips)] for score, spread in scores])
    assert preferred(levels, [0, 1, 2], total, prefer, max_cost) == expected
