"""A sweep's configuration: base recipe, fixed settings, space, first trials, budget, resources.

`search.config.load` reads it from YAML and validates it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from search.config.space import Parameter, pick
from trainable.config.config import Config


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Search(_Section):
    """How many trials, how their settings are drawn, and the objective."""

    num_samples: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Number of trials, including the first ones."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the search; a trial's own seed is the config key `seed`."""
    objective: Literal["overall", "tasks"] = "overall"
    """`overall`: maximise the best overall over the epochs; `tasks`: the best score of each task,
    as several objectives. Early stopping always compares overall."""
    num_startup_trials: Annotated[int, Field(ge=1)] = 8
    """Number of trials, including the first ones, before TPE uses their results."""
    baselines: bool = True
    """Score the baselines of the data before the first trial: the most frequent class, and
    scikit-learn's linear models on the frozen encoder."""
    num_probes: Annotated[int, Field(ge=0)] = 0
    """Number of first trials that end after the stage `probe`, in seconds. Every second trial after
    them takes over the settings of the best probe not used yet."""


class Scheduler(_Section):
    """Early stopping of trials."""

    name: Literal["halving", "asha", "median", "none"] = "halving"
    """`halving`: successive halving over epochs that stops trials; `asha`: that pauses and promotes
    them; `median`: the median rule; `none`: every trial runs to its end."""
    grace_period: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial runs before the first rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """`halving` and `asha`: the best 1/reduction_factor of the trials at a rung continue; the next
    rung is at that many times the epochs."""
    audit_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the trials that are never stopped, to measure the cost of early stopping."""


class Resources(_Section):
    """Resources of a trial, and how often a failed one is restarted."""

    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    """CPUs and threads of a trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a trial, or a fraction of one; null: 1 if the cluster has a GPU, else 0."""
    max_concurrent_trials: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Trials at a time; null: as many as fit on the cluster at the start; auto: as many as fit,
    updated as nodes join and leave."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a trial is restarted after its process died or raised an error."""
    max_silence_minutes: Annotated[float, Field(gt=0)] = 30.0
    """A trial without a training step for this long is killed, and restarted as after a failure."""


class Budget(_Section):
    """Limits at which the sweep stops, to be resumed later, and prices."""

    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of the driver, from its start; null: no limit, also below."""
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """GPU-hours of all attempts at trials of the sweep, including lost work."""
    max_usd: Annotated[float, Field(gt=0)] | None = None
    """Cost of all attempts by `usd_per_hour`, without the head and idle nodes."""
    usd_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Node type in the cluster's file -> price of a node per hour; `local`: this machine."""


class Notify(_Section):
    """Where to send notifications of a sweep's end, its stop and its first failure."""

    url: Annotated[str, Field(pattern=r"^\$[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """`$NAME`: the environment variable with the URL to which the sweep's end, its stop and its
    first failure are sent, as JSON by POST. The URL itself is a secret and is not stored."""
    command: str | None = None
    """A command that gets the same JSON on standard input; it is run without a shell."""


class RecipeSettings(_Section):
    """A recipe as it was read when the sweep began; its file is not read again."""

    settings: dict[str, Any]
    """Dotted name -> value, with the recipes that it extends merged in."""
    origin: dict[str, str]


class FirstTrial(_Section):
    """A configuration to try first: a recipe's settings with overrides."""

    recipe: str
    overrides: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrialSettings:
    """The settings of a trial that are not searched."""

    recipe: str
    settings: dict[str, Any]  # dotted name -> value; missing ones have the config's defaults
    origin: dict[str, str]  # dotted name -> where the value came from

    @property
    def with_defaults(self) -> dict[str, Any]:
        """Every config key's value, for the conditions of a space."""
        return Config().flat() | self.settings


class SweepConfig(_Section):
    """A resolved sweep: recipes, environment and command line are merged in and validated. It
    needs no other file."""

    name: str
    description: str = ""
    recipe: str = "baseline"
    """Base of the trials that the search draws."""
    recipes: dict[str, RecipeSettings] = Field(default_factory=dict)
    """Name or file -> recipe, of every recipe that the sweep names."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fixed settings: dotted name -> value."""
    origin: dict[str, str] = Field(default_factory=dict)
    """Dotted name -> where the fixed setting came from."""
    space: dict[str, Parameter] = Field(default_factory=dict)
    first_trials: tuple[FirstTrial, ...] = ()
    """Configurations to try before any is drawn."""
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()
    budget: Budget = Budget()
    notify: Notify = Notify()
    keep_pruned_top: Annotated[int, Field(ge=0)] = 3
    """A pruned trial keeps its weights while among this many best for a task or overall."""

    def base(self) -> TrialSettings:
        """Return the fixed settings of the trials that the search draws."""
        return self._without_searched(self._over(self.recipe, {}, ""))

    def first(self, number: int) -> tuple[TrialSettings, dict[str, Any]]:
        """Return the fixed settings of first trial `number` (from 0) and its point in the space."""
        trial = self.first_trials[number]
        given = self._over(trial.recipe, trial.overrides, f"first trial {number + 1}")
        rest = self._without_searched(given)
        return rest, pick(self.space, Config().flat() | given.settings, rest.with_defaults)

    def to_file(self) -> dict[str, Any]:
        """Return the content of a sweep file that resolves to this sweep."""
        content = self.model_dump(mode="json", exclude={"name", "space", "first_trials"})
        content["space"] = {
            key: parameter.model_dump(mode="json", exclude_defaults=True)
            for key, parameter in self.space.items()
        }
        content["first_trials"] = [
            {"recipe": trial.recipe, **trial.overrides} for trial in self.first_trials
        ]
        return content

    def map_settings(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> "SweepConfig":
        """Return the sweep with `change` applied to its recipes, config and first trials."""
        recipes = {
            name: recipe.model_copy(update={"settings": change(recipe.settings)})
            for name, recipe in self.recipes.items()
        }
        trials = tuple(
            trial.model_copy(update={"overrides": change(trial.overrides)})
            for trial in self.first_trials
        )
        config = change(self.config)
        return self.model_copy(
            update={"recipes": recipes, "config": config, "first_trials": trials}
        )

    def _over(self, recipe: str, overrides: Mapping[str, Any], place: str) -> TrialSettings:
        read = self.recipes[recipe]
        return TrialSettings(
            recipe,
            {**read.settings, **self.config, **overrides},
            {**read.origin, **self.origin, **dict.fromkeys(overrides, place)},
        )

    def _without_searched(self, given: TrialSettings) -> TrialSettings:
        rest = {key: value for key, value in given.settings.items() if key not in self.space}
        return TrialSettings(given.recipe, rest, given.origin)


SECTIONS: dict[str, type[BaseModel]] = {
    "search": Search,
    "scheduler": Scheduler,
    "resources": Resources,
    "budget": Budget,
    "notify": Notify,
}
SWEEP_KEYS = (
    *(f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields),
    "keep_pruned_top",
)
