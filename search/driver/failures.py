"""Retries of trials whose process was lost or that raised an error.

A process lost before it started the trial says nothing about the trial: an environment that cannot
be installed, a worker that dies, a node with a full disk. The start is retried with exponential
backoff, on another node if there is one; if no trial starts on any node, the sweep is stopped. A
process that ends itself before a trial, because it cannot run another one, is not a failure.
"""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.util import placement_group_table

_logger = logging.getLogger(__name__)

FIRST_SECONDS, LONGEST_SECONDS = 2.0, 300.0
"""Wait before a start is retried: doubled with each loss, from the first value up to the second."""
MAX_LOSSES = 10
"""Processes that a trial may lose before its start while other trials do start."""
MANY_LOSSES, PATIENCE_SECONDS = 8, 120.0
"""The sweep is stopped after this many lost starts in a row, over at least this time."""
_LONGEST_HOLD_SECONDS = 30.0
_MEMORY = re.compile(r"OutOfMemoryError|MemoryError|low on memory", re.IGNORECASE)
"""Messages of Ray when it kills a process to free memory, and of Python's failed allocations."""

_REPLACED = "INTENDED_USER_EXIT"
"""Ray's name for the end of a process that ended itself."""


@dataclass(frozen=True)
class Verdict:
    """Whether a trial has failed for good, or when and how it is retried."""

    is_over: bool
    reason: str
    after_seconds: float = 0.0
    exclusive: bool = False  # without other trials on its node


@dataclass
class _Count:
    failures: int = 0  # attempts that failed
    losses: int = 0  # processes lost before their attempt
    was_exclusive: bool = False  # ran out of memory once, and is retried alone on a node


@dataclass
class _AvoidedNode:
    """A node on which starts were lost."""

    count: int
    until: float


class Failures:
    """The failures of a sweep's trials under one driver.

    Args:
        alive: ids of the nodes that trials fit on.
        has_begun: whether any running process has started its trial.
    """

    def __init__(
        self,
        max_failures: int,
        alive: Callable[[], set[str]] = set,
        has_begun: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_failures, self._alive, self._has_begun = max_failures, alive, has_begun
        self._clock = clock
        self._counts: defaultdict[str, _Count] = defaultdict(_Count)
        self._nodes: dict[str, _AvoidedNode] = {}
        self._in_a_row, self._since, self._last = 0, 0.0, 0.0  # lost starts: count, first, last

    def judge(self, trial: str, reason: str, node: str | None, *, has_tried: bool) -> Verdict:
        """Decide whether the trial is retried.

        Args:
            node: id of the node of its process, if known.
            has_tried: whether the process had started the trial.
        """
        if not has_tried and _REPLACED in reason:  # by `trainable.tune.trainable`
            return Verdict(False, "its process cannot run another trial and is replaced")
        count = self._counts[trial]
        if _MEMORY.search(reason):
            return self._judge_memory(count, reason)
        if has_tried:
            self.begun(node)
            count.failures += 1
            # No delay: another trial would take its slot, until that trial ends.
            return Verdict(count.failures > self.max_failures, reason)
        self._lost(node)
        count.losses += 1
        return Verdict(count.losses > MAX_LOSSES, reason, pause(count.losses))

    def begun(self, node: str | None) -> None:
        """Reset the counts of lost starts: a process has started its trial on this node."""
        self._in_a_row = 0
        self._nodes.pop(node or "", None)

    def to_avoid(self) -> list[str]:
        """Return the ids of nodes with recent lost starts; none if that would be all nodes."""
        now = self._clock()
        avoided = {name for name, node in self._nodes.items() if now < node.until}
        alive = self._alive() if avoided else set()  # a request to Ray's head
        return sorted(avoided & alive) if alive - avoided else []

    def is_holding(self) -> bool:
        """Whether to start nothing at the moment, because the last start was lost."""
        wait = min(pause(self._in_a_row), _LONGEST_HOLD_SECONDS)
        return self._in_a_row > 0 and self._clock() < self._last + wait

    def stop_reason(self, reason: str) -> str | None:
        """Return why the sweep is to be stopped, with the newest loss's reason; None: it is not."""
        is_many = self._in_a_row >= MANY_LOSSES
        if not is_many or self._clock() - self._since < PATIENCE_SECONDS or self._has_begun():
            return None
        lost = f"{self._in_a_row} starts in a row were lost"
        where = f", on {len(self._nodes)} nodes" if len(self._nodes) > 1 else ""
        return f"no trial begins anywhere: {lost}{where}: {reason}"

    def _lost(self, node: str | None) -> None:
        now = self._clock()
        self._since = self._since if self._in_a_row else now
        self._in_a_row, self._last = self._in_a_row + 1, now
        if node is not None:
            count = self._nodes[node].count + 1 if node in self._nodes else 1
            self._nodes[node] = _AvoidedNode(count, now + 10 * pause(count))

    def _judge_memory(self, count: _Count, reason: str) -> Verdict:
        """Retry a trial that ran out of memory once, alone on a node."""
        if count.was_exclusive:
            return Verdict(True, f"alone on a node as well: {reason}")
        count.was_exclusive = True
        return Verdict(False, f"{reason}; it is retried alone on a node", exclusive=True)


def pause(count: int) -> float:
    """Return the seconds to wait after `count` losses in a row."""
    return min(FIRST_SECONDS * 2.0 ** max(0, count - 1), LONGEST_SECONDS)


MAX_REASON = 300
"""Longest reason of a failed trial, in characters."""


def first_line_of_error(text: str) -> str:
    """Return `ValueError: the message` from Tune's error text, which contains a traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failure # ")] or lines  # Tune's header
    indented = [number for number, line in enumerate(lines) if line[0].isspace()]
    rest = lines[indented[-1] + 1 :] if indented else lines
    line = (rest or lines[-1:] or ["unknown error"])[0]
    return "".join(char for char in line if char.isprintable())[:MAX_REASON]


class TrialNodes:
    """The node of each trial's newest process, by the trial's name."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}  # trial -> node id
        self._node_of_actor: dict[object, str] = {}

    def update(self, controller: Any) -> None:
        """Record the nodes of new processes: once a process is lost its node cannot be found out.

        Reads private attributes of Tune's controller; if these change, no node is avoided.
        """
        try:
            self._update(controller)
        except Exception as error:  # it would end the sweep
            _logger.debug("the nodes of trials are not known: %r", error)

    def _update(self, controller: Any) -> None:
        live = controller._actor_manager._live_actors_to_ray_actors_resources
        for actor, trial in controller._actor_to_trial.items():
            if actor in live:
                if actor not in self._node_of_actor:  # an actor may run several trials in turn
                    table = placement_group_table(live[actor][1].placement_group)
                    self._node_of_actor[actor] = table["bundles_to_node_id"][0]
                self._nodes[trial.config["trial"]] = self._node_of_actor[actor]
        for actor in self._node_of_actor.keys() - live.keys():
            del self._node_of_actor[actor]

    def node(self, trial: str) -> str | None:
        """Return the id of the trial's node; None if it is not known."""
        return self._nodes.get(trial)
