"""The probes of a sweep: trials that train only the heads, in seconds, before any encoder is
trained.

They draw only the settings that matter for heads. Later trials, which also train the encoder, take
over the settings of the best of them.
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
PROBE_ONLY = ["probe"]


class Probes:
    """The scores of a sweep's probes, and which of their points later trials have used."""

    def __init__(self, sweep: SweepConfig) -> None:
        self.num_probes = sweep.search.num_probes
        self.space: Space = effective_space(sweep.space, PROBE_ONLY)
        """The settings that a probe draws."""
        self.scored: list[tuple[float, dict[str, Any]]] = []  # best overall, point
        self.used: list[dict[str, Any]] = []  # points

    def probe_only(self, given: TrialSettings) -> TrialSettings:
        """Return the settings of a trial that ends with its probe."""
        settings = {**given.settings, STAGES: PROBE_ONLY}
        return replace(given, settings=settings, origin={**given.origin, STAGES: "search, a probe"})

    def is_continuation(self, number: int) -> bool:
        """Whether trial `number` (from 0) of the sweep is to take over a probe's settings.

        Never in a sweep without probes: where all trials train only heads, it would repeat one.
        """
        return 0 < self.num_probes <= number and (number - self.num_probes) % 2 == 0

    def take_best(self) -> dict[str, Any] | None:
        """Return the point of the best probe not used yet, now used; the earliest wins a tie."""
        left = [item for item in self.scored if item[1] not in self.used]
        if not left:
            return None
        _, point = max(left, key=lambda item: item[0])
        self.used.append(point)
        return dict(point)

    def ended(self, suggested: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Take in a trial that has ended with a usable value."""
        settings = suggested["settings"]
        self._add(settings, suggested["searched"], float(result[BEST_VALUE]))

    def restore(self, past: PastTrial) -> None:
        """Take in a trial of an earlier driver."""
        config = past.record.config
        if past.is_scored and past.epochs:
            self._add(config, past.record.searched, past.best_values[-1])

    def _add(self, settings: Mapping[str, Any], searched: Any, value: float) -> None:
        point = {key: settings[key] for key in searched if key in self.space}
        if list(settings.get(STAGES, ())) == PROBE_ONLY:
            self.scored.append((value, point))
        elif point not in self.used:
            self.used.append(point)


def effective_space(space: Space, stages: list[str]) -> Space:
    """Return the settings of the space that have an effect in a trial of these stages."""
    train = Config().train.model_copy(update={"stages": tuple(stages)})
    idle = {key for key, _ in idle_by_stage(Config().model_copy(update={"train": train}))}
    return {key: parameter for key, parameter in space.items() if key not in idle}
