"""The search space: the config keys that a sweep searches, their values, and their conditions.

`when` gives the values of other settings under which a key is searched at all: otherwise the key is
absent from the trial.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import optuna

Scalar = bool | int | float | str | None
Settings = Mapping[str, Any]  # dotted config key -> value


class Parameter(BaseModel):
    """One key of the space: a range or a list of choices."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["float", "int", "categorical"]
    low: int | float | None = None
    """Lower end of a range, inclusive."""
    high: int | float | None = None
    """Upper end of a range, inclusive."""
    log: bool = False
    """Sample on a log scale; low must be above 0."""
    choices: tuple[Scalar, ...] | None = None
    """The values of a categorical key."""
    when: dict[str, Scalar] = Field(default_factory=dict)
    """Key -> value that it must have; each a key above this one in the space, or a fixed one."""

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> "Parameter":
        if self.type == "categorical":
            if not self.choices:
                raise ValueError("a categorical key needs a list of choices")
            if len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError(f"a choice is given twice in {list(self.choices)}")
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("low, high and log belong to float and int keys")
            return self
        low, high = self.low, self.high
        if self.choices is not None:
            raise ValueError(f"choices belong to categorical keys; this one is {self.type}")
        if low is None or high is None:
            raise ValueError(f"a {self.type} key needs low and high")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"low must be below high, got low {low} and high {high}")
        if self.log and low <= 0:
            raise ValueError(f"low must be above 0 where log is true, got {low}")
        if self.type == "int" and not (low == int(low) and high == int(high)):
            raise ValueError(f"an int key needs whole numbers, got low {low} and high {high}")
        return self

    @property
    def corners(self) -> tuple[Scalar, ...]:
        """Both ends of a range, or every choice: if these are valid, all values are."""
        if self.choices is not None:
            return self.choices
        convert = int if self.type == "int" else float
        return tuple(convert(end) for end in (self.low, self.high) if end is not None)

    def contains(self, value: Any) -> bool:
        """Whether the search can draw `value`."""
        if self.choices is not None:
            return any(value == choice and _same_type(value, choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.corners
        return low <= value <= high and (self.type == "float" or value == int(value))  # type: ignore[operator]

    def describe(self) -> str:
        """`0.0001..0.1 (log)` or `one of [128, 256]`."""
        if self.choices is not None:
            return f"one of {list(self.choices)}"
        return f"{self.low}..{self.high}" + (" (log)" if self.log else "")


Space = Mapping[str, Parameter]


def is_active(parameter: Parameter, settings: Settings) -> bool:
    """Whether the conditions of a key hold under `settings`, which must have every key in them."""
    return all(settings[key] == value for key, value in parameter.when.items())


def suggest(space: Space, trial: "optuna.Trial", settings: Settings) -> dict[str, Any]:
    """Draw the active keys in the order of the space (define-by-run).

    Args:
        settings: the trial's other settings, for the conditions.
    """
    return _choose(space, settings, lambda key: _draw(key, space[key], trial))


def distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    """Return the Optuna distribution of a key."""
    from optuna import distributions  # slow to import, and most commands draw nothing

    if parameter.choices is not None:
        return distributions.CategoricalDistribution(parameter.choices)
    low, high = _ends(parameter)
    if parameter.type == "int":
        return distributions.IntDistribution(int(low), int(high), log=parameter.log)
    return distributions.FloatDistribution(low, high, log=parameter.log)


def pick(space: Space, known: Settings, settings: Settings) -> dict[str, Any]:
    """Return the point of the space that `known` gives: the active keys with its values."""
    return _choose(space, settings, known.__getitem__)


def corner_points(space: Space, settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield points to validate: if they are valid with the fixed `settings`, the space is taken to
    be.

    Each end or choice of each key alone, with its conditions met; then all lower ends and all upper
    ends together, with each choice of each categorical key in turn.
    """
    for key, parameter in space.items():
        conditions = {name: value for name, value in parameter.when.items() if name in space}
        if is_active(parameter, {**settings, **conditions}):
            yield from ({**conditions, key: value} for value in parameter.corners)
    for end in (0, -1):
        joint = {key: parameter.corners[end] for key, parameter in space.items()}
        yield pick(space, joint, settings)
        for key, parameter in space.items():
            for choice in parameter.choices or ():
                yield pick(space, {**joint, key: choice}, settings)


def _choose(space: Space, settings: Settings, value_of: Callable[[str], Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for key, parameter in space.items():
        if is_active(parameter, {**settings, **chosen}):
            chosen[key] = value_of(key)
    return chosen


def _draw(key: str, parameter: Parameter, trial: "optuna.Trial") -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(key, parameter.choices)
    low, high = _ends(parameter)
    if parameter.type == "int":
        return trial.suggest_int(key, int(low), int(high), log=parameter.log)
    return trial.suggest_float(key, low, high, log=parameter.log)


def _ends(parameter: Parameter) -> tuple[float, float]:
    low, high = parameter.low, parameter.high
    assert low is not None and high is not None  # noqa: PT018 - the validator ensures it
    return float(low), float(high)


def _same_type(value: Any, choice: Scalar) -> bool:
    """Whether both or neither are bool: True is not 1, but 1.0 is 1."""
    return isinstance(value, bool) == isinstance(choice, bool)
