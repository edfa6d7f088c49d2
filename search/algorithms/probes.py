"""The probes of a sweep: trials that train heads alone, in seconds, before any encoder is trained.

What they draw is what matters for heads; the best of them are taken up by trials that go on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search.config.space import Space
from search.config.sweep_config import SweepConfig, TrialSettings
from search.storage.history import PastTrial
from trainable.config.config import Config
from trainable.config.constraints import idle_by_stage
from trainable.tune.keys import BEST_VALUE

STAGES = "train.stages"
PROBE_ALONE = ["probe"]


class Probes:
    """What a sweep's probes have found, and which of them were taken up."""

    def __init__(self, sweep: SweepConfig) -> None:
        self.num_probes = sweep.search.num_probes
        self.space: Space = effective_space(sweep.space, PROBE_ALONE)
        """What a probe draws."""
        self.scored: list[tuple[float, dict[str, Any]]] = []  # best overall, point
        self.taken_up: list[dict[str, Any]] = []

    def alone(self, given: TrialSettings) -> TrialSettings:
        """The trial that ends with its probe."""
        settings = {**given.settings, STAGES: PROBE_ALONE}
        return replace(given, settings=settings, origin={**given.origin, STAGES: "search, a probe"})

    def is_next_taken_up(self, number: int) -> bool:
        """Whether trial `number` (from 0) of the sweep takes up a probe, should there be one.

        Never in a sweep without probes: where all trials train heads alone, it would run one again.
        """
        return 0 < self.num_probes <= number and (number - self.num_probes) % 2 == 0

    def take_up(self) -> dict[str, Any] | None:
        """The point of the best probe that no trial has taken up; the earliest wins a tie."""
        left = [item for item in self.scored if item[1] not in self.taken_up]
        if not left:
            return None
        _, point = max(left, key=lambda item: item[0])
        self.taken_up.append(point)
        return dict(point)

    def ended(self, suggested: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """A trial of this driver has ended with a usable value."""
        settings = suggested["settings"]
        self._note(settings, suggested["searched"], float(result[BEST_VALUE]))

    def restore(self, past: PastTrial) -> None:
        """A trial of an earlier driver."""
        config = past.record.config
        if past.is_scored and past.epochs:
            self._note(config, past.record.searched, past.best_values[-1])

    def _note(self, settings: Mapping[str, Any], searched: Any, value: float) -> None:
        point = {key: settings[key] for key in searched if key in self.space}
        if list(settings.get(STAGES, ())) == PROBE_ALONE:
            self.scored.append((value, point))
        elif point not in self.taken_up:
            self.taken_up.append(point)


def effective_space(space: Space, stages: list[str]) -> Space:
    """The settings that change anything in a trial of these stages."""
    train = Config().train.model_copy(update={"stages": tuple(stages)})
    idle = {key for key, _ in idle_by_stage(Config().model_copy(update={"train": train}))}
    return {key: parameter for key, parameter in space.items() if key not in idle}
