"""Batches: every example once, seeded, bucketed by length, in the order the strategy says."""

import itertools

import numpy as np
import pytest

from trainable.batching import plan_epoch

LENGTHS = {
    "a": np.random.default_rng(0).integers(3, 60, 1000),
    "b": np.random.default_rng(1).integers(3, 30, 333),
}


@pytest.mark.parametrize("strategy", ["round_robin", "even"])
def test_each_example_once_in_batches_of_the_size(strategy: str) -> None:
    plan = plan_epoch(LENGTHS, strategy, 16, seed=0, epoch=1)
    for name, lengths in LENGTHS.items():
        rows = np.concatenate([step.rows for step in plan if step.task_name == name])
        assert sorted(rows) == list(range(len(lengths)))
    assert sum(len(step.rows) == 16 for step in plan) == 1000 // 16 + 333 // 16
    assert all(len(step.rows) <= 16 for step in plan)


def test_round_robin_runs_through_one_task_after_the_other_and_even_mixes() -> None:
    def switches(strategy: str) -> int:
        names = [step.task_name for step in plan_epoch(LENGTHS, strategy, 16, seed=0, epoch=1)]
        return sum(one != two for one, two in itertools.pairwise(names))

    assert switches("round_robin") == 1
    assert switches("even") > 20


def test_same_seed_and_epoch_same_plan_else_another() -> None:
    def plan(seed: int, epoch: int) -> list[tuple[str, list[int]]]:
        steps = plan_epoch(LENGTHS, "even", 16, seed, epoch)
        return [(step.task_name, step.rows.tolist()) for step in steps]

    assert plan(0, 1) == plan(0, 1)
    assert plan(0, 1) != plan(0, 2)
    assert plan(0, 1) != plan(1, 1)


def test_bucketing_wastes_little_padding() -> None:
    def padded(batches: list[np.ndarray]) -> float:
        lengths = LENGTHS["a"]
        return sum(lengths[rows].max() * len(rows) for rows in batches) / lengths.sum()

    bucketed = [s.rows for s in plan_epoch(LENGTHS, "even", 16, 0, 1) if s.task_name == "a"]
    order = np.random.default_rng(0).permutation(1000)
    plain = [order[i : i + 16] for i in range(0, 1000, 16)]
    assert padded(bucketed) < 1.1
    assert padded(plain) > 1.6
