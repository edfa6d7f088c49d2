"""Lost processes: pauses before retries, nodes to avoid, and when to stop the sweep."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from search.driver import failures as module
from search.driver.failures import (
    LONGEST_SECONDS,
    MANY_LOSSES,
    Failures,
    TrialNodes,
    pause,
)


@dataclass
class Cluster:
    """Nodes, a clock, and whether any trial is running."""

    nodes: set[str] = field(default_factory=lambda: {"a", "b"})
    now: float = 0.0
    is_busy: bool = False

    def failures(self, max_failures: int = 3) -> Failures:
        return Failures(max_failures, lambda: self.nodes, lambda: self.is_busy, lambda: self.now)


def test_without_lost_starts_the_cluster_is_not_queried() -> None:
    """Each suggestion asks which nodes to avoid, and Ray's list of nodes grows with the cluster."""
    queries: list[str] = []
    cluster = Cluster()

    def alive() -> set[str]:
        queries.append("nodes")
        return cluster.nodes

    failures = Failures(3, alive, lambda: False, lambda: cluster.now)
    assert failures.to_avoid() == []
    assert queries == []
    failures.judge("1", "lost", "a", has_tried=False)
    assert failures.to_avoid() == ["a"]
    assert queries == ["nodes"]


def test_lost_starts_are_retried_after_increasing_pauses() -> None:
    failures = Cluster().failures()
    waits = [failures.judge("1", "lost", "a", has_tried=False).after_seconds for _ in range(10)]
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_SECONDS == pause(99)
    assert failures.judge("2", "lost", "a", has_tried=False).after_seconds == 2.0
    assert failures.judge("1", "lost", "a", has_tried=False).is_over


def test_a_process_that_ends_itself_before_a_trial_is_no_failure() -> None:
    failures = Cluster().failures(max_failures=0)
    reason = "The actor is dead. Worker exit type: INTENDED_USER_EXIT"
    verdicts = [failures.judge("1", reason, "a", has_tried=False) for _ in range(20)]
    assert not any(verdict.is_over or verdict.after_seconds for verdict in verdicts)
    assert failures.to_avoid() == []
    assert not failures.is_holding()
    assert failures.judge("1", reason, "a", has_tried=True).is_over


def test_failed_attempts_are_retried_at_once() -> None:
    failures = Cluster().failures(max_failures=4)
    verdicts = [failures.judge("1", "boom", "a", has_tried=True) for _ in range(5)]
    assert [verdict.is_over for verdict in verdicts] == [False, False, False, False, True]
    assert [verdict.after_seconds for verdict in verdicts] == [0.0] * 5


def test_a_node_that_loses_starts_is_avoided_for_a_while() -> None:
    cluster = Cluster()
    failures = cluster.failures()
    assert failures.to_avoid() == []
    failures.judge("1", "lost", "a", has_tried=False)
    failures.judge("2", "lost", None, has_tried=False)  # on an unknown node
    assert failures.to_avoid() == ["a"]
    cluster.nodes = {"a"}  # the only node
    assert failures.to_avoid() == []
    cluster.nodes = {"b", "c"}
    assert failures.to_avoid() == []
    cluster.nodes = {"a", "b"}
    cluster.now += 10 * pause(1) - 1
    assert failures.to_avoid() == ["a"]
    cluster.now += 1
    assert failures.to_avoid() == []
    failures.judge("1", "lost", "a", has_tried=False)
    cluster.now += 10 * pause(1)
    assert failures.to_avoid() == ["a"]  # for longer after the second loss
    failures.begun("a")
    assert failures.to_avoid() == []


def test_starts_are_on_hold_for_a_while_after_a_loss() -> None:
    cluster = Cluster()
    failures = cluster.failures()
    assert not failures.is_holding()
    failures.judge("1", "lost", "a", has_tried=False)
    assert failures.is_holding()
    cluster.now += pause(1)
    assert not failures.is_holding()
    for _ in range(9):
        failures.judge("1", "lost", "a", has_tried=False)
    cluster.now += 31  # the longest time on hold
    assert not failures.is_holding()


def test_a_sweep_in_which_no_trial_starts_for_long_is_stopped() -> None:
    cluster = Cluster()
    failures = cluster.failures()
    for number in range(MANY_LOSSES):
        assert failures.stop_reason("no wheel") is None
        failures.judge(str(number), "no wheel", "ab"[number % 2], has_tried=False)
    assert failures.stop_reason("no wheel") is None
    cluster.now += 120
    lost = f"{MANY_LOSSES} starts in a row were lost, on 2 nodes: no wheel"
    assert failures.stop_reason("no wheel") == f"no trial begins anywhere: {lost}"
    cluster.is_busy = True
    assert failures.stop_reason("no wheel") is None
    cluster.is_busy = False
    failures.begun("b")
    assert failures.stop_reason("no wheel") is None


def test_the_node_of_a_process_is_still_known_once_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queried: list[object] = []

    def table(group: Any) -> dict[str, Any]:
        queried.append(group)
        return {"bundles_to_node_id": {0: f"node of {group}"}}

    monkeypatch.setattr(module, "placement_group_table", table)
    live = {"actor": ("handle", SimpleNamespace(placement_group="group"))}
    trial = SimpleNamespace(config={"trial": "0001"})
    controller = SimpleNamespace(
        _actor_manager=SimpleNamespace(_live_actors_to_ray_actors_resources=live),
        _actor_to_trial={"actor": trial, "not placed yet": trial},
    )
    found = TrialNodes()
    found.update(controller)
    next_trial = SimpleNamespace(config={"trial": "0003"})
    controller._actor_to_trial["actor"] = next_trial
    found.update(controller)
    assert queried == ["group"]
    assert found.node("0003") == "node of group"
    live.clear()
    found.update(controller)
    assert found.node("0001") == "node of group"
    assert found.node("0002") is None
    found.update(SimpleNamespace())  # without Tune's private attributes
