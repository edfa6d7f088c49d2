"""Messages while trials wait for nodes."""

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
    """A sweep with a simulated clock; collects its messages."""

    def __init__(self, max_concurrent: int | None) -> None:
        self.now, self.messages = 0.0, list[str]()
        nodes = [Node({"CPU": 4.0}), Node({"CPU": 8.0, "GPU": 1.0})]
        self.waiting = Waiting(
            {"CPU": 4, "GPU": 1.0},
            max_concurrent,
            self.messages.append,
            lambda: nodes,
            lambda: "the autoscaler: starts nothing",
            lambda: self.now,
        )

    def check(self, seconds: float, *statuses: str) -> Sequence[str]:
        self.now += seconds
        self.messages.clear()
        self.waiting.check(lambda: statuses)
        return list(self.messages)


def test_messages_say_what_trials_wait_for_and_since_when() -> None:
    job = Job(2)
    assert job.check(0, "RUNNING", "PENDING") == []
    assert job.check(FIRST_SECONDS - 1, "RUNNING", "PENDING") == []
    (message,) = job.check(2.5, "RUNNING", "PENDING", "TERMINATED")
    assert message.startswith("1 trial(s) wait for a node with 4 CPU and 1 GPU free, since ")
    assert message.endswith(
        "; 1 run; the cluster has 2 nodes with 12 CPU and 1 GPU; the autoscaler: starts nothing"
    )
    assert job.check(AGAIN_SECONDS - 1, "RUNNING", "PENDING") == []
    assert len(job.check(2.5, "RUNNING", "PENDING")) == 1
    assert job.check(120, "RUNNING", "RUNNING") == ["no trial waits any longer, after 13 min"]
    assert job.check(5, "RUNNING", "RUNNING") == []


def test_a_short_pause_between_trials_is_not_reported() -> None:
    job = Job(2)
    for _ in range(9):
        assert job.check(FIRST_SECONDS - 2, "RUNNING", "PENDING") == []
        assert job.check(3, "RUNNING", "RUNNING") == []


def test_with_automatic_concurrency_a_wait_beside_running_trials_is_not_reported() -> None:
    job = Job(None)
    job.check(0, "RUNNING", "PENDING")
    assert job.check(FIRST_SECONDS, "RUNNING", "PENDING") == []
    job.check(3, "PENDING")
    (message,) = job.check(FIRST_SECONDS, "PENDING")
    assert "; 0 run; " in message


def test_the_autoscalers_report_is_summarised() -> None:
    """In the form in which Ray's autoscaler stores it."""
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
