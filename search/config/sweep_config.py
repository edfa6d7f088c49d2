"""What a sweep is: base recipe, fixed settings, space, first trials, budget, resources.

`search.config.load` reads one from YAML and proves it valid.
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
    """How many trials, how their settings are drawn, and what is searched for."""

    num_samples: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Trials, the first ones included."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the search; a trial's own seed is the config key `seed`."""
    objective: Literal["overall", "tasks"] = "overall"
    """The best overall of any epoch; or each task's best by itself, none given up for another.
    What is stopped early is decided on overall either way."""
    num_startup_trials: Annotated[int, Field(ge=1)] = 8
    """Trials, the first ones included, before the search learns from results."""
    baselines: bool = True
    """Score the baselines of the data before the first trial: the most frequent class, and
    scikit-learn's linear models on the frozen encoder."""
    num_probes: Annotated[int, Field(ge=0)] = 0
    """The first so many trials end with the stage `probe`, in seconds. Of those after them every
    second takes up the settings of the best probe that none has taken up."""


class Scheduler(_Section):
    """Which trials are stopped before their end."""

    name: Literal["halving", "asha", "median", "none"] = "halving"
    """Successive halving on epochs, by stopping or by promoting, the median rule, or every trial to
    its end."""
    grace_period: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial runs: the first rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """Halving and ASHA: the best 1/reduction_factor at a rung go on; the next rung is that many
    times higher."""
    audit_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the trials that go on where they would be stopped: what does stopping cost?"""


class Resources(_Section):
    """What a trial is given, and how often it is tried again."""

    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    """CPUs and threads of a trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a trial, or a fraction of one; null: 1 where the cluster has a GPU, else 0."""
    max_concurrent_trials: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Trials at a time; null: as many as the cluster has room for at the start; auto: as many as it
    has room for, as nodes come and go."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that a trial is started again after its process died or raised an error."""
    max_silence_minutes: Annotated[float, Field(gt=0)] = 30.0
    """A trial that takes no step for so long is ended, and started again as after a failure."""


class Budget(_Section):
    """Limits at which the sweep stops, resumably, and the prices that they count by."""

    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Of the driver, from its start; null: no limit. Likewise below."""
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Of all attempts at trials of the sweep, lost work included."""
    max_usd: Annotated[float, Field(gt=0)] | None = None
    """Price of all attempts, by `usd_per_hour`; head and idle nodes are not in it."""
    usd_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Node type of the cluster's file -> price of a node for an hour; `local`: this machine."""


class Notify(_Section):
    """Where a sweep's end, its stop and its first failure are sent."""

    url: Annotated[str, Field(pattern=r"^\$[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """`$NAME`: the environment variable with the URL to which the sweep's end, its stop and
    its first failure are sent, by a POST of JSON. The URL itself is a secret, and in no setting."""
    command: str | None = None
    """A command that gets the same on its standard input; it is run without a shell."""


class RecipeSettings(_Section):
    """A recipe as it was read when the sweep began; its file is not needed again."""

    settings: dict[str, Any]
    """Dotted name -> value, what it extends merged in."""
    origin: dict[str, str]


class FirstTrial(_Section):
    """A known configuration: all of a recipe's settings, and overrides of them."""

    recipe: str
    overrides: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrialSettings:
    """What a trial starts from: everything but what the search chooses."""

    recipe: str
    settings: dict[str, Any]  # dotted name -> value; missing ones are the config's defaults
    origin: dict[str, str]  # dotted name -> where the value came from

    @property
    def with_defaults(self) -> dict[str, Any]:
        """Every config key's value, as the conditions of a space see it."""
        return Config().flat() | self.settings


class SweepConfig(_Section):
    """A resolved sweep: recipes, environment and command line are merged in and proved valid. It
    needs no file but itself."""

    name: str
    description: str = ""
    recipe: str = "baseline"
    """Base of the trials that the search draws."""
    recipes: dict[str, RecipeSettings] = Field(default_factory=dict)
    """Name or file -> the recipe, of every one that the sweep names."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fixed settings, dotted."""
    origin: dict[str, str] = Field(default_factory=dict)
    """Where each fixed setting came from."""
    space: dict[str, Parameter] = Field(default_factory=dict)
    first_trials: tuple[FirstTrial, ...] = ()
    """Recipes to try before anything is drawn."""
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()
    budget: Budget = Budget()
    notify: Notify = Notify()
    keep_pruned_top: Annotated[int, Field(ge=0)] = 3
    """A pruned trial keeps its weights while among this many best for a task or overall."""

    def base(self) -> TrialSettings:
        """What the trials that the search draws start from."""
        return self._without_searched(self._over(self.recipe, {}, ""))

    def first(self, number: int) -> tuple[TrialSettings, dict[str, Any]]:
        """Settings of first trial `number` (from 0), and its point in the space."""
        trial = self.first_trials[number]
        given = self._over(trial.recipe, trial.overrides, f"first trial {number + 1}")
        rest = self._without_searched(given)
        return rest, pick(self.space, Config().flat() | given.settings, rest.with_defaults)

    def to_file(self) -> dict[str, Any]:
        """The content of a sweep file that resolves to this sweep."""
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
        """The sweep with `change` made to the settings of its recipes, config and first trials."""
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
