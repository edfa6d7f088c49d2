"""Messages while a sweep's trials wait for nodes: which resources they need, since when, and the
state of the autoscaler."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.experimental.internal_kv import _internal_kv_get

from mlflow_setup.text import duration
from trainable.tune.cluster import Node

FIRST_SECONDS, AGAIN_SECONDS = 30.0, 600.0
"""How long trials wait before the first message, and before each further one."""
_CHECK_SECONDS = 2.0
_STATUS = "__autoscaling_status"  # key under which Ray's autoscaler stores its report


class Waiting:
    """Shows a message when trials have waited for a while.

    Args:
        needs: CPU and GPU of a trial.
        max_concurrent: trials that are to run at a time; None: as many as fit, so that only a
            sweep without any running trial counts as waiting.
        show: shows a line to the user.
        nodes: the nodes of the cluster now.
        autoscaler: the state of the autoscaler, in words.
    """

    def __init__(
        self,
        needs: Mapping[str, float],
        max_concurrent: int | None,
        show: Callable[[str], None],
        nodes: Callable[[], Sequence[Node]],
        autoscaler: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._needs, self._show, self._nodes = needs, show, nodes
        self._min_running = max_concurrent or 1
        self._autoscaler, self._clock = autoscaler or autoscaler_state, clock
        self._checked = float("-inf")
        self._since: float | None = None
        self._since_text = ""  # wall-clock time of `_since`
        self._shown: float | None = None  # time of the last message

    def check(self, statuses: Callable[[], Sequence[str]]) -> None:
        """Show a message if one is due. Called often; `statuses`: Tune's, of all trials."""
        now = self._clock()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked, statuses_now = now, statuses()
        num_waiting, num_running = statuses_now.count("PENDING"), statuses_now.count("RUNNING")
        if not num_waiting or num_running >= self._min_running:
            self._end(now)
            return
        if self._since is None:
            self._since, self._since_text = now, time.strftime("%H:%M")
        is_due = self._shown is None or now - self._shown >= AGAIN_SECONDS
        if now - self._since >= FIRST_SECONDS and is_due:
            self._shown = now
            self._show(self._message(num_waiting, num_running))

    def _end(self, now: float) -> None:
        if self._shown is not None and self._since is not None:
            self._show(f"no trial waits any longer, after {duration(now - self._since)}")
        self._since = self._shown = None

    def _message(self, num_waiting: int, num_running: int) -> str:
        wanted = " and ".join(f"{count:g} {name}" for name, count in self._needs.items() if count)
        nodes = self._nodes()
        gpus = sum(node.gpus for node in nodes)
        has = f"{len(nodes)} nodes with {sum(node.cpus for node in nodes):g} CPU and {gpus:g} GPU"
        return (
            f"{num_waiting} trial(s) wait for a node with {wanted} free, since {self._since_text}; "
            f"{num_running} run; the cluster has {has}; {self._autoscaler()}"
        )


def autoscaler_state() -> str:
    """Return the state of the cluster's autoscaler in a few words."""
    try:
        report = json.loads(_internal_kv_get(_STATUS) or b"{}")["autoscaler_report"]
        return f"the autoscaler: {describe(report)}"
    except Exception:  # there is none, or its report has another format: no reason to fail a sweep
        return "no autoscaler answers: nodes are added by hand"


def describe(report: Mapping[str, Any]) -> str:
    """Describe an autoscaler's report: `1 gpu_spot being started; 1 gpu_ondemand failed`."""
    started: dict[str, int] = dict(report.get("pending_launches") or {})
    for _, node_type, *_ in report.get("pending_nodes") or ():
        started[node_type] = started.get(node_type, 0) + 1
    parts = [f"{count} {node_type} being started" for node_type, count in sorted(started.items())]
    failed = [node_type for _, node_type, *_ in report.get("failed_nodes") or ()]
    parts += [f"{failed.count(each)} {each} failed" for each in sorted(set(failed))]
    availability = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
    for each in availability.values():
        why = each.get("unavailable_node_information")
        if why:
            parts.append(f"{each.get('node_type')} is not available: {why.get('description')}")
    return "; ".join(parts) or "starts nothing"
