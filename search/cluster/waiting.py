"""What a sweep says while its trials wait for nodes: for what, since when, and what the autoscaler
answers."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.experimental.internal_kv import _internal_kv_get

from mlflow_setup.text import duration
from trainable.tune.cluster import Node

FIRST_SECONDS, AGAIN_SECONDS = 30.0, 600.0
"""How long trials wait before it is said, and before it is said again."""
_LOOK_SECONDS = 2.0
_STATUS = "__autoscaling_status"  # where Ray's autoscaler leaves its report


class Waiting:
    """Says what is waited for.

    Args:
        needs: CPU and GPU of a trial.
        asked: trials at a time that were asked for; None: as many as there is room for, so that
            only a sweep without any running trial waits.
        say: shows a line to the user.
        nodes: those of the cluster now.
        answer: what the autoscaler says.
    """

    def __init__(
        self,
        needs: Mapping[str, float],
        asked: int | None,
        say: Callable[[str], None],
        nodes: Callable[[], Sequence[Node]],
        answer: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._needs, self._asked, self._say, self._nodes = needs, asked, say, nodes
        self._answer, self._clock = answer or autoscaler_answer, clock
        self._looked = float("-inf")
        self._since: float | None = None
        self._began = ""  # by the wall clock, to be shown
        self._said: float | None = None

    def look(self, statuses: Callable[[], Sequence[str]]) -> None:
        """Called all the time; `statuses`: Tune's, of all trials."""
        now = self._clock()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked, statuses_now = now, statuses()
        num_waiting, num_running = statuses_now.count("PENDING"), statuses_now.count("RUNNING")
        if not num_waiting or num_running >= (self._asked or 1):
            self._end(now)
            return
        if self._since is None:
            self._since, self._began = now, time.strftime("%H:%M")
        is_due = self._said is None or now - self._said >= AGAIN_SECONDS
        if now - self._since >= FIRST_SECONDS and is_due:
            self._said = now
            self._say(self._words(num_waiting, num_running))

    def _end(self, now: float) -> None:
        if self._said is not None and self._since is not None:
            self._say(f"no trial waits any longer, after {duration(now - self._since)}")
        self._since = self._said = None

    def _words(self, num_waiting: int, num_running: int) -> str:
        wanted = " and ".join(f"{count:g} {name}" for name, count in self._needs.items() if count)
        nodes = self._nodes()
        gpus = sum(node.gpus for node in nodes)
        has = f"{len(nodes)} nodes with {sum(node.cpus for node in nodes):g} CPU and {gpus:g} GPU"
        return (
            f"{num_waiting} trial(s) wait for a node with {wanted} free, since {self._began}; "
            f"{num_running} run; the cluster has {has}; {self._answer()}"
        )


def autoscaler_answer() -> str:
    """The report of the autoscaler of the cluster that this process has joined, in a few words."""
    try:
        report = json.loads(_internal_kv_get(_STATUS) or b"{}")["autoscaler_report"]
        return f"the autoscaler: {describe(report)}"
    except Exception:  # there is none, or its form is another: that must not end a sweep
        return "no autoscaler answers: nodes are added by hand"


def describe(report: Mapping[str, Any]) -> str:
    """`1 gpu_spot is started; gpu_spot failed: no capacity` out of an autoscaler's report."""
    started: dict[str, int] = dict(report.get("pending_launches") or {})
    for _, node_type, *_ in report.get("pending_nodes") or ():
        started[node_type] = started.get(node_type, 0) + 1
    said = [f"{count} {node_type} being started" for node_type, count in sorted(started.items())]
    failed = [node_type for _, node_type, *_ in report.get("failed_nodes") or ()]
    said += [f"{failed.count(each)} {each} failed" for each in sorted(set(failed))]
    availability = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
    for each in availability.values():
        why = each.get("unavailable_node_information")
        if why:
            said.append(f"{each.get('node_type')} is not to be had: {why.get('description')}")
    return "; ".join(said) or "starts nothing"
