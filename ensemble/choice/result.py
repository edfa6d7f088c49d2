"""What was chosen for each task, and its cross-fitted score."""

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
    """The ways to choose."""

    BEST_SINGLE = "best_single"  # the best candidate for the task
    SIMPLE = "simple"  # the best overall epoch of every run, equal weights
    SELECTIVE = "selective"  # what ships: of the level of cost that is preferred


class Prefer(StrEnum):
    """Which level of cost ships, of those that no cheaper one beats."""

    SCORE = "score"  # the best
    BALANCED = "balanced"  # the cheapest within one standard error of the best; one model for all
    # tasks where the gain over it is not clear
    SINGLE = "single"  # one model for all tasks


@dataclass(frozen=True)
class Scores:
    """A metric of what a half of dev chose: the mean over all halves that choose in turn."""

    held_out: float  # on the other half, held out
    in_sample: float  # on the half itself

    @property
    def optimism(self) -> float:
        """What looking only at the rows that one chose by would promise beyond what holds."""
        return self.in_sample - self.held_out

    def to_json(self) -> dict[str, float | None]:
        """JSON values: null for what is not a number."""
        return {name: None if math.isnan(s) else s for name, s in asdict(self).items()}


@dataclass(frozen=True)
class Member:
    """A candidate and its share."""

    candidate: Candidate
    weight: float  # above 0, sum 1; of a linear model any
    transform: Transform  # of its outputs


@dataclass(frozen=True)
class MethodChoice:
    """The members that a method chose for a task on all of dev, and their cross-fitted score."""

    members: tuple[Member, ...]  # the heaviest first
    scores: Scores
    trajectory: tuple[float, ...]  # metric on all of dev of the heaviest 1, 2, ... members
    intercept: tuple[float, ...] | None = None  # of a linear model; None: an average


@dataclass(frozen=True)
class TaskChoice:
    """What each method chose for a task."""

    metric: str
    num_rows: int  # of dev
    methods: dict[Method, MethodChoice]
    rule: RuleChoice  # of selective, chosen on dev-train
    gains: dict[Method, Gain]  # of selective over the others, on held-out rows
    curve: Curve  # selective's gain over best single by its number of members

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
    """The candidate that is best overall, for all tasks."""

    candidate: Candidate
    scores: Scores  # its overall
    gain: Gain  # of what ships over it


@dataclass(frozen=True)
class Point:
    """A level of cost: the choice on all of dev at that cost, and its cross-fitted score."""

    candidates: tuple[Candidate, ...]  # by `order`
    cost: int  # parameters of all of them; candidates, where parameters are not recorded
    scores: Scores  # overall
    gain: Gain  # of the level that ships over this one


@dataclass(frozen=True)
class EnsembleChoice:
    """What each method chose for every task, and its overall."""

    tasks: dict[str, TaskChoice]
    overall: dict[Method, Scores]
    gains: dict[Method, Gain]  # of selective's overall over the others'
    one_for_all: OneForAll | None  # None: no candidate has all tasks
    front: tuple[Point, ...]  # the cheapest first, each better than all cheaper ones
    whole: Point  # what the rules chose, as it is
    declined: Point | None  # what would ship, were its gain over one model for all clear
    cost: Cost
    prefer: Prefer | None  # None: the rules' members, or those listed, as they are

    def candidates(self, method: Method) -> tuple[Candidate, ...]:
        """The distinct encoders over all tasks: what a prediction of every task costs."""
        distinct = {
            m.candidate for task in self.tasks.values() for m in task.methods[method].members
        }
        return tuple(sorted(distinct, key=lambda candidate: candidate.order))
