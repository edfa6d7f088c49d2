"""What is said while trials wait for nodes."""

from collections.abc import Sequence

from search.cluster.waiting import (
    AGAIN_SECONDS,
    FIRST_SECONDS,
    Waiting,
    autoscaler_state,
    describe,
)
from trainable.tune.cluster import Node


class Job:
    """A clock, and what was said."""

    def __init__(self, asked: int | None) -> None:
        self.now, self.said = 0.0, list[str]()
        nodes = [Node({"CPU": 4.0}), Node({"CPU": 8.0, "GPU": 1.0})]
        self.waiting = Waiting(
            {"CPU": 4, "GPU": 1.0},
            asked,
            self.said.append,
            lambda: nodes,
            lambda: "the autoscaler: starts nothing",
            lambda: self.now,
        )

    def look(self, seconds: float, *statuses: str) -> Sequence[str]:
        self.now += seconds
        self.said.clear()
        self.waiting.check(lambda: statuses)
        return list(self.said)


def test_it_is_said_for_what_trials_wait_and_since_when() -> None:
    job = Job(2)
    assert job.look(0, "RUNNING", "PENDING") == []
    assert job.look(FIRST_SECONDS - 1, "RUNNING", "PENDING") == []
    (said,) = job.look(2.5, "RUNNING", "PENDING", "TERMINATED")
    assert said.startswith("1 trial(s) wait for a node with 4 CPU and 1 GPU free, since ")
    assert said.endswith(
        "; 1 run; the cluster has 2 nodes with 12 CPU and 1 GPU; the autoscaler: starts nothing"
    )
    assert job.look(AGAIN_SECONDS - 1, "RUNNING", "PENDING") == []
    assert len(job.look(2.5, "RUNNING", "PENDING")) == 1
    assert job.look(120, "RUNNING", "RUNNING") == ["no trial waits any longer, after 13 min"]
    assert job.look(5, "RUNNING", "RUNNING") == []


def test_a_moment_between_two_trials_is_no_wait() -> None:
    job = Job(2)
    for _ in range(9):
        assert job.look(FIRST_SECONDS - 2, "RUNNING", "PENDING") == []
        assert job.look(3, "RUNNING", "RUNNING") == []


def test_where_concurrency_follows_the_cluster_one_trial_always_waits() -> None:
    job = Job(None)
    job.look(0, "RUNNING", "PENDING")
    assert job.look(FIRST_SECONDS, "RUNNING", "PENDING") == []
    job.look(3, "PENDING")
    (said,) = job.look(FIRST_SECONDS, "PENDING")
    assert "; 0 run; " in said


def test_an_autoscalers_report_in_words() -> None:
    """As Ray's autoscaler leaves it in the cluster's store."""
    assert describe({}) == "starts nothing"
    report = {
        "active_nodes": {"head": 1},
        "pending_launches": {"gpu_spot": 1},
        "pending_nodes": [["10.0.0.9", "gpu_spot", "setting-up"]],
        "failed_nodes": [["10.0.0.8", "gpu_ondemand"]],
        "node_availability_summary": {
            "node_availabilities": {
                "gpu_spot": {
                    "node_type": "gpu_spot",
                    "unavailable_node_information": {"category": "x", "description": "no capacity"},
                }
            }
        },
    }
    assert describe(report) == (
        "2 gpu_spot being started; 1 gpu_ondemand failed; gpu_spot is not available: no capacity"
    )


def test_without_a_cluster_no_autoscaler_answers(no_ray: None) -> None:
    assert autoscaler_state() == "no autoscaler answers: nodes are added by hand"
