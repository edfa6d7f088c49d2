"""Sharing a device among trials: which shares are measured, and which one is best."""

from pathlib import Path
from typing import Any

import pytest

from search.planning import gpu_sharing as sharing
from search.planning.gpu_sharing import Share, best, describe
from trainable.tune.placement import TrialPlacement


def _node(cpus: float, gpus: float = 0) -> dict[str, Any]:
    return {"NodeID": "n", "Resources": {"CPU": cpus, "GPU": gpus}}


def _place(threads: int, gpus: float = 0.0) -> TrialPlacement:
    return TrialPlacement(Path("runs"), "sweep", threads, gpus)


@pytest.mark.parametrize(
    ("place", "node", "expected"),
    [
        (_place(2), _node(2), [(1, 2, 0), (2, 1, 0)]),
        (_place(1), _node(8), [(1, 8, 0), (2, 4, 0), (4, 2, 0)]),
        (_place(4, 1), _node(16, 1), [(1, 4, 1), (2, 4, 0.5), (4, 4, 0.25)]),
        (_place(4, 1), _node(4, 1), [(1, 4, 1), (2, 2, 0.5), (4, 1, 0.25)]),
        (_place(1, 1), _node(2, 1), [(1, 1, 1), (2, 1, 0.5)]),
    ],
)
def test_a_node_is_cut_into_equal_shares(
    place: TrialPlacement, node: dict[str, Any], expected: list[tuple[int, int, float]]
) -> None:
    found = list(sharing._shares(place, node))
    assert [(n, share.num_threads, share.num_gpus) for n, _, share in found] == expected
    for count, setting, share in found:
        key, _, value = setting.partition("=")
        of_gpu = {"resources.gpus_per_trial": 1 / count}
        of_cpu = {"resources.cpus_per_trial": share.num_threads}
        assert {key: float(value)} == (of_gpu if place.num_gpus else of_cpu)


def test_the_best_share_has_the_most_steps_a_second_and_of_equals_the_fewest_trials() -> None:
    shares = [Share(1, "a", 2.0), Share(2, "b", 3.0), Share(4, "c", 3.0)]
    assert best(shares).setting == "b"
    assert "2: 1.50, 4: 1.50; best: b" in describe(shares)


def test_shares_that_do_not_fit_are_described() -> None:
    shares = [Share(1, "a", 2.0), Share(2, "b", 1.5), Share(4, "c", None, "out of memory")]
    assert describe(shares).endswith("2: 0.75, 4: does not fit; best: a")
    assert describe([Share(1, "a", 2.0)]).endswith("no more fit; best: a")
    assert "not even one trial fits: lost" in describe([Share(1, "a", None, "lost")])
