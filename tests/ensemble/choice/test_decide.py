"""What ships, whatever the pool: properties of the choice over random pools."""

import dataclasses
import math

import numpy as np
import pytest
from little_effort import LITTLE

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.decide import preferred
from ensemble.choice.pareto import Level, Option
from ensemble.choice.result import EnsembleChoice, Method, Prefer
from ensemble.presentation.words import verdict
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS, Kind

NUM_ROWS = 90
TASKS = ("sentiment", "paraphrase", "similarity")
SEEDS = range(6)


def labels_of(name: str, rng: np.random.Generator) -> np.ndarray:
    kind = PAPER_TASKS[name].kind
    if kind is Kind.SIMILARITY:
        return rng.uniform(0, 5, NUM_ROWS)
    return rng.integers(0, 5 if kind is Kind.CLASSIFICATION else 2, NUM_ROWS).astype(np.float64)


def outputs_of(name: str, labels: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """What a candidate puts out that is the better, the less noise there is."""
    kind = PAPER_TASKS[name].kind
    signal = np.eye(5)[labels.astype(int)] if kind is Kind.CLASSIFICATION else labels
    signal = 2 * labels - 1 if kind is Kind.PARAPHRASE else signal
    return np.asarray(signal + noise * rng.standard_normal(signal.shape), np.float32)


def random_pool(seed: int, num_bad: int = 0) -> Pool:
    """Three to nine candidates of random skill and size, each with every task; bad ones know
    nothing, whatever else is in the pool."""
    rng, bad = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    noises = rng.uniform(0.4, 1.6, rng.integers(3, 10))
    candidates = [
        Candidate(f"run{m}", f"{m:04d}", "s", 1, "/none", int(rng.integers(1, 9)) * 10**6)
        for m in range(len(noises))
    ]
    soups = [Candidate(f"soup{m}", f"soup{m}", "s", 1, "/none", 10**6) for m in range(num_bad)]
    tasks, every = {}, tuple(sorted([*candidates, *soups], key=lambda c: c.order))
    for name in TASKS:
        labels = labels_of(name, rng)
        outputs = dict(
            zip(candidates, (outputs_of(name, labels, n, rng) for n in noises), strict=True)
        )
        for soup in soups:
            shuffled = labels[bad.permutation(NUM_ROWS)]
            outputs[soup] = outputs_of(name, shuffled, 0.5, bad)
        tasks[name] = TaskPool(
            task=PAPER_TASKS[name],
            data_fingerprint="data",
            ids=tuple(f"{row:03d}" for row in range(NUM_ROWS)),
            labels=labels,
            candidates=every,
            outputs=np.stack([outputs[c] for c in every]),
            choosable=np.ones((1 + NUM_HALVES, len(every)), np.bool_),
            listed=np.ones(len(every), np.bool_),
        )
    return Pool(tasks, every, ())


def shipped(choice: EnsembleChoice) -> dict[str, dict[str, float]]:
    return {
        name: {m.candidate.key: m.weight for m in task.selective.members}
        for name, task in choice.tasks.items()
    }


@pytest.fixture(scope="module", params=SEEDS)
def pair(request: pytest.FixtureRequest) -> tuple[EnsembleChoice, EnsembleChoice]:
    """The choice of a pool, and of the same one with two bad soups."""
    pools = (random_pool(request.param), random_pool(request.param, num_bad=2))
    return choose(pools[0], effort=LITTLE), choose(pools[1], effort=LITTLE)


def test_nothing_ships_that_a_cheaper_point_of_the_front_beats(
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


def test_a_worse_candidate_changes_nothing(pair: tuple[EnsembleChoice, EnsembleChoice]) -> None:
    before, after = pair
    assert shipped(before) == shipped(after)
    assert before.front == after.front
    assert before.overall[Method.SELECTIVE] == after.overall[Method.SELECTIVE]
    assert verdict(before) == verdict(after)


def test_no_task_ships_what_is_clearly_below_its_best_single(
    pair: tuple[EnsembleChoice, EnsembleChoice],
) -> None:
    """One that would, ships at a level at which it does not."""
    for choice in pair:
        if len(choice.candidates(Method.SELECTIVE)) > 1:
            for task in choice.tasks.values():
                assert task.gains[Method.BEST_SINGLE].high >= 0


def test_one_model_ships_where_more_is_no_clear_gain(
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


def test_what_is_preferred_is_what_ships() -> None:
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
    ("prefer", "behind", "noise", "max_cost", "expected"),
    [
        (Prefer.SCORE, (0.02, 0.01, 0.0), 0.05, math.inf, 2),
        (Prefer.BALANCED, (0.02, 0.01, 0.0), 0.05, math.inf, 0),
        (Prefer.BALANCED, (0.02, 0.01, 0.0), 0.015, math.inf, 1),
        (Prefer.BALANCED, (0.02, 0.01, 0.0), 0.005, math.inf, 2),
        (Prefer.BALANCED, (0.02, 0.01, 0.0), 0.005, 25, 1),
        (Prefer.SINGLE, (0.02, 0.01, 0.0), 0.005, math.inf, 0),
        (Prefer.SCORE, (0.02, 0.01, 0.0), 0.005, 5, 0),
    ],
)
def test_the_cheapest_within_one_standard_error_of_the_best(
    prefer: Prefer, behind: tuple[float, ...], noise: float, max_cost: float, expected: int
) -> None:
    levels = [level(10, 1), level(20), level(30)]
    flips = np.array([1.0, -1.0] * 100)
    total = np.array([[0.7 - b, *(0.7 - b + noise * (b > 0) * flips)] for b in behind])
    assert preferred(levels, [0, 1, 2], total, prefer, max_cost) == expected
