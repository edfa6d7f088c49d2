"""What becomes of a trial whose process was lost, or that raised an error.

A process that is lost before it has begun says nothing about the trial: an environment that cannot
be installed, a worker that dies, a node with a full disk. It is tried again after a longer wait
each time, on another node where there is one; where nothing begins anywhere the sweep is stopped.
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
"""Of the wait before a start is tried again: doubled each time, up to the second."""
MAX_LOSSES = 10
"""Processes that a trial may lose before they begin with it, where others' begin."""
MANY_LOSSES, PATIENCE_SECONDS = 8, 120.0
"""So many in a row, and none that began, for so long: nothing begins anywhere."""
_LONGEST_HOLD_SECONDS = 30.0
_MEMORY = re.compile(r"OutOfMemoryError|MemoryError|low on memory", re.IGNORECASE)
"""What Ray says of a process that it ended for a machine's memory, and Python of an allocation."""


@dataclass(frozen=True)
class Verdict:
    """Tried again after some seconds, perhaps with a machine to itself; or over."""

    is_over: bool
    reason: str
    after_seconds: float = 0.0
    exclusive: bool = False


@dataclass
class _Count:
    failures: int = 0  # tries that failed
    losses: int = 0  # processes lost before they tried
    was_exclusive: bool = False  # ran out of a machine's memory beside others


@dataclass
class _Resting:
    """A node on which starts were lost."""

    count: int
    until: float


class Failures:
    """The failures of a sweep's trials under one driver.

    Args:
        alive: the nodes that trials fit on, by id.
        has_begun: whether a trial is under way that its process has begun with.
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
        self._nodes: dict[str, _Resting] = {}
        self._in_a_row, self._since, self._last = 0, 0.0, 0.0

    def judge(self, trial: str, reason: str, node: str | None, *, has_tried: bool) -> Verdict:
        """What becomes of the trial.

        Args:
            node: where its process was, if that is known.
            has_tried: whether the process had begun with the trial.
        """
        count = self._counts[trial]
        if _MEMORY.search(reason):
            return self._judge_memory(count, reason)
        if has_tried:
            self.begun(node)
            count.failures += 1
            # at once: in a wait its place would go to another trial, for as long as that takes
            return Verdict(count.failures > self.max_failures, reason)
        self._lost(node)
        count.losses += 1
        return Verdict(count.losses > MAX_LOSSES, reason, pause(count.losses))

    def begun(self, node: str | None) -> None:
        """A process has begun with its trial, on that node."""
        self._in_a_row = 0
        self._nodes.pop(node or "", None)

    def to_avoid(self) -> list[str]:
        """Nodes on which starts were lost of late; none where no other is there."""
        now = self._clock()
        resting = {name for name, node in self._nodes.items() if now < node.until}
        alive = self._alive() if resting else set()  # Ray's head is asked for them
        return sorted(resting & alive) if alive - resting else []

    def is_holding(self) -> bool:
        """Whether nothing is to be started for a moment: the last start was lost."""
        wait = min(pause(self._in_a_row), _LONGEST_HOLD_SECONDS)
        return self._in_a_row > 0 and self._clock() < self._last + wait

    def why_stop(self, reason: str) -> str | None:
        """Why the sweep is to be stopped, with the newest loss's reason; None: it is not."""
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
            self._nodes[node] = _Resting(count, now + 10 * pause(count))

    def _judge_memory(self, count: _Count, reason: str) -> Verdict:
        """Once more on a machine of its own: beside others there was too little memory."""
        if count.was_exclusive:
            return Verdict(True, f"alone as well: {reason}")
        count.was_exclusive = True
        return Verdict(False, f"{reason}; tried again on a machine of its own", exclusive=True)


def pause(count: int) -> float:
    """Seconds to wait after so many losses in a row."""
    return min(FIRST_SECONDS * 2.0 ** max(0, count - 1), LONGEST_SECONDS)


MAX_REASON = 300
"""Characters of an error's first line that become the reason of a failed trial."""


def first_line_of_error(text: str) -> str:
    """`ValueError: what went wrong` out of Tune's error text, which ends in a traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failure # ")] or lines  # Tune's header
    indented = [number for number, line in enumerate(lines) if line[0].isspace()]
    rest = lines[indented[-1] + 1 :] if indented else lines
    line = (rest or lines[-1:] or ["unknown error"])[0]
    return "".join(char for char in line if char.isprintable())[:MAX_REASON]


class Places:
    """The node of each trial's newest process, by the trial's name."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._of_process: dict[object, str] = {}

    def look(self, controller: Any) -> None:
        """Note what is new, before a process is lost and with it where it ran. Only Tune's
        controller knows, in a private attribute; where that has moved, no node is avoided."""
        try:
            self._look(controller)
        except Exception as error:  # it would end the sweep
            _logger.debug("the nodes of trials are not known: %r", error)

    def _look(self, controller: Any) -> None:
        live = controller._actor_manager._live_actors_to_ray_actors_resources
        for actor, trial in controller._actor_to_trial.items():
            if actor in live:
                if actor not in self._of_process:  # a process may have one trial after another
                    table = placement_group_table(live[actor][1].placement_group)
                    self._of_process[actor] = table["bundles_to_node_id"][0]
                self._nodes[trial.config["trial"]] = self._of_process[actor]
        for actor in self._of_process.keys() - live.keys():
            del self._of_process[actor]

    def node(self, trial: str) -> str | None:
        """The id of the trial's node; None where it was never seen on one."""
        return self._nodes.get(trial)
