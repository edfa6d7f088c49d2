"""The plan of an epoch: seeded batches, bucketed by length, and the tasks' order by strategy."""

import itertools
from collections import Counter

import numpy as np
import pytest

from trainable.batches.sampler import Step, length_buckets, plan_epoch
from trainable.config.sections import Batching
from trainable.runtime.seeding import generator

LENGTHS = {
    "a": np.random.default_rng(0).integers(3, 60, 1000),
    "b": np.random.default_rng(1).integers(3, 30, 333),
}
STRATEGIES = ["round_robin", "even", "proportional", "temperature", "annealed"]


def _plan(strategy: str, seed: int = 0, epoch: int = 1, **rest: float) -> list[Step]:
    progress = rest.pop("progress", 0.0)
    batching = Batching.model_validate({"strategy": strategy, "batch_size": 16, **rest})
    return plan_epoch(LENGTHS, batching, seed, epoch, progress)


@pytest.mark.parametrize("strategy", ["round_robin", "even"])
def test_each_example_occurs_once_in_full_batches(strategy: str) -> None:
    plan = _plan(strategy)
    for name, lengths in LENGTHS.items():
        rows = np.concatenate([step.rows for step in plan if step.task_name == name])
        assert sorted(rows) == list(range(len(lengths)))
    assert sum(len(step.rows) == 16 for step in plan) == 1000 // 16 + 333 // 16
    assert all(len(step.rows) <= 16 for step in plan)


def test_round_robin_takes_task_by_task_and_even_mixes_them() -> None:
    def switches(strategy: str) -> int:
        names = [step.task_name for step in _plan(strategy)]
        return sum(one != two for one, two in itertools.pairwise(names))

    assert switches("round_robin") == 1
    assert switches("even") > 20


@pytest.mark.parametrize(
    ("strategy", "settings", "exponent"),
    [
        ("proportional", {}, 1.0),
        ("temperature", {"temperature": 2.0}, 0.5),
        ("temperature", {"temperature": 1.0}, 1.0),
        ("temperature", {"temperature": 1e6}, 0.0),
        ("annealed", {"progress": 0.0}, 1.0),
        ("annealed", {"progress": 0.5}, 0.6),
        ("annealed", {"progress": 1.0}, 0.2),
    ],
)
def test_tasks_are_drawn_by_a_power_of_their_number_of_batches(
    strategy: str, settings: dict[str, float], exponent: float
) -> None:
    """With 63 and 21 batches, the share of `a` in 60 epochs is within 4 standard errors."""
    plans = [_plan(strategy, epoch=epoch, **settings) for epoch in range(60)]
    assert {len(plan) for plan in plans} == {63 + 21}
    counts = Counter(step.task_name for plan in plans for step in plan)
    share = 63**exponent / (63**exponent + 21**exponent)
    total = 60 * 84
    error = (share * (1 - share) / total) ** 0.5
    assert abs(counts["a"] / total - share) < 4 * error


@pytest.mark.parametrize("strategy", ["temperature", "annealed"])
def test_a_task_drawn_more_often_than_it_has_batches_is_reshuffled(strategy: str) -> None:
    plan = _plan(strategy, temperature=1e6, progress=1.0)
    own = [step.rows for step in plan if step.task_name == "b"]
    assert len(own) > 21
    assert sorted(np.concatenate(own[:21])) == list(range(333))
    again = np.concatenate(own[21:])
    assert len(set(again)) == len(again)
    assert [rows.tolist() for rows in own[21:]] != [rows.tolist() for rows in own[: len(own) - 21]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_plan_depends_on_seed_and_epoch_only(strategy: str) -> None:
    def plan(seed: int, epoch: int) -> list[tuple[str, list[int]]]:
        return [(step.task_name, step.rows.tolist()) for step in _plan(strategy, seed, epoch)]

    assert plan(0, 1) == plan(0, 1)
    assert plan(0, 1) != plan(0, 2)
    assert plan(0, 1) != plan(1, 1)


@pytest.mark.parametrize(
    ("task_order", "expected"),
    [
        (("b", "a"), ["b", "a", "c"]),
        (("c", "unknown", "a"), ["c", "a", "b"]),
        ((), ["a", "b", "c"]),
    ],
)
def test_round_robin_follows_the_task_order(
    task_order: tuple[str, ...], expected: list[str]
) -> None:
    lengths = {**LENGTHS, "c": LENGTHS["b"]}
    batching = Batching(strategy="round_robin", task_order=task_order)
    plan = plan_epoch(lengths, batching, 0, 1)
    assert list(dict.fromkeys(step.task_name for step in plan)) == expected


def test_the_default_task_order_is_the_papers() -> None:
    names = ("sentiment", "paraphrase", "similarity", "nli")
    plan = plan_epoch(dict.fromkeys(names, LENGTHS["b"]), Batching(), 0, 1)
    turns = list(dict.fromkeys(step.task_name for step in plan))
    assert turns == ["similarity", "paraphrase", "sentiment", "nli"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_bucketing_lengths_vary_in_a_batch_as_in_the_task(strategy: str) -> None:

    def spread(by_length: bool) -> float:
        batching = Batching.model_validate({"strategy": strategy, "by_length": by_length})
        plan = plan_epoch(LENGTHS, batching, 0, 1)
        own = [step.rows for step in plan if step.task_name == "a"]
        first = np.concatenate(own[:20])
        assert len(set(first)) == len(first)
        return float(np.mean([LENGTHS["a"][rows].std() for rows in own if len(rows) == 16]))

    assert spread(False) == pytest.approx(LENGTHS["a"].std(), rel=0.05)
    assert spread(True) < 0.1 * spread(False)


def test_bucketing_needs_little_padding() -> None:
    lengths = LENGTHS["a"]
    batches = [step.rows for step in _plan("even") if step.task_name == "a"]
    num_padded = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert num_padded < 1.1 * lengths.sum()


def test_each_pass_over_a_task_has_its_own_seed() -> None:
    """These seeds may not change, so that stopped trials can be resumed by a later release."""

    def rows(name: str, *number: int) -> list[list[int]]:
        random = generator(3, "batches", 2, name, *number)
        return [batch.tolist() for batch in length_buckets(LENGTHS[name], 16, random)]

    once = [step.rows.tolist() for step in _plan("round_robin", 3, 2)]
    assert once == rows("a") + rows("b")
    plan = _plan("temperature", 3, 2, temperature=1e6)
    again = [step.rows.tolist() for step in plan if step.task_name == "b"]
    expected = rows("b") + rows("b", 1) + rows("b", 2)
    assert 21 < len(again) <= 63
    assert again == expected[: len(again)]
