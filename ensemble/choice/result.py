"""The result of a choice: the members for each task, and their cross-fitted scores."""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum

from ensemble.candidates.pool import Candidate
from ensemble.choice.cost import Cost
from ensemble.choice.gain_curve import Curve
from ensemble.selection.combine import Transform
from ensemble.selection.rule_selection import RuleChoice
from ensemble.statistics.bootstrap import Gain


class Method(StrEnum):
    """How members are chosen."""

    BEST_SINGLE = "best_single"  # the best candidate for the task
    SIMPLE = "simple"  # the best overall epoch of every run, with equal weights
    SELECTIVE = "selective"  # what ships: the selective ensemble at the preferred level of cost


class Prefer(StrEnum):
    """Which level of cost on the Pareto front ships."""

    SCORE = "score"  # the best
    BALANCED = "balanced"  # the cheapest within one standard error of the best; one model for all
    # tasks if the gain over it is not clear
    SINGLE = "single"  # one model for all tasks


@dataclass(frozen=True)
class Scores:
    """Cross-fitted scores: means over the halves of dev that members are chosen on."""

    held_out: float  # on the other half
    in_sample: float  # on the same half

    @property
    def optimism(self) -> float:
        """The optimism of the in-sample score."""
        return self.in_sample - self.held_out

    def to_json(self) -> dict[str, float | None]:
        """Return JSON values, with null for NaN."""
        return {name: None if math.isnan(s) else s for name, s in asdict(self).items()}


@dataclass(frozen=True)
class Member:
    """A candidate and its weight."""

    candidate: Candidate
    weight: float  # above 0, sum 1; any number in a linear model
    transform: Transform  # of its outputs


@dataclass(frozen=True)
class MethodChoice:
    """The members that a method chose for a task on all of dev, and their cross-fitted scores."""

    members: tuple[Member, ...]  # the largest weight first
    scores: Scores
    trajectory: tuple[float, ...]  # metric of the first 1, 2, ... members, on all of dev
    intercept: tuple[float, ...] | None = None  # of a linear model; None: an average


@dataclass(frozen=True)
class TaskChoice:
    """The choice of each method for a task."""

    metric: str
    num_rows: int  # of dev
    methods: dict[Method, MethodChoice]
    rule: RuleChoice  # of selective, chosen on dev-train
    gains: dict[Method, Gain]  # of selective over the other methods, on held-out rows
    curve: Curve  # gain of selective over best single, by number of members

    @property
    def best_single(self) -> MethodChoice:
        return self.methods[Method.BEST_SINGLE]

    @property
    def simple(self) -> MethodChoice:
        return self.methods[Method.SIMPLE]

    @property
    def selective(self) -> MethodChoice:
        return self.methods[Method.SELECTIVE]


@dataclass(frozen=True)
class OneForAll:
    """The candidate with the best overall score, used for all tasks."""

    candidate: Candidate
    scores: Scores  # overall
    gain: Gain  # of what ships over this candidate


@dataclass(frozen=True)
class Point:
    """A level of cost: the choice on all of dev at that cost, and its cross-fitted scores."""

    candidates: tuple[Candidate, ...]  # sorted by `order`
    cost: int  # their parameters, or their number if parameters are not recorded
    scores: Scores  # overall
    gain: Gain  # of the level that ships over this one


@dataclass(frozen=True)
class EnsembleChoice:
    """The choice of each method for every task, and the overall scores."""

    tasks: dict[str, TaskChoice]
    overall: dict[Method, Scores]
    gains: dict[Method, Gain]  # of selective over the other methods, overall
    one_for_all: OneForAll | None  # None: no candidate has all tasks
    front: tuple[Point, ...]  # the Pareto front, the cheapest first
    whole: Point  # all members that the rules chose
    declined: Point | None  # would have shipped if its gain over one model for all were clear
    cost: Cost
    prefer: Prefer | None  # None: all members that the rules chose or that were listed

    def candidates(self, method: Method) -> tuple[Candidate, ...]:
        """Return the distinct members over all tasks, which are run to answer every task."""
        distinct = {
            m.candidate for task in self.tasks.values() for m in task.methods[method].members
        }
        return tuple(sorted(distinct, key=lambda candidate: candidate.order))
