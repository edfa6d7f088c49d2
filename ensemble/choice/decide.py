"""Some rows of dev -> what each method chooses by their labels alone, and by nothing else.

Legend: M candidates of a task, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import Candidate, Pool
from ensemble.choice.cost import Cost
from ensemble.choice.result import Method
from ensemble.choice.task_view import WHOLE, TaskPredictions
from ensemble.selection.combine import Averaged
from ensemble.selection.greedy import best_single
from ensemble.selection.rule_selection import RuleChoice, choose_rule
from ensemble.selection.rules import Rule
from ensemble.selection.sample import Combination, Linear, deduplicated, weights_and_intercept
from ensemble.statistics.effort import SHIPPED, Effort
from mlflow_setup.errors import ConfigError
from trainable.evaluation.metrics import overall

Floats = NDArray[np.float64]
Weights = Mapping[str, Floats]
"""Task -> [M]."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What some rows choose."""

    weights: dict[Method, Weights]
    rules: dict[str, RuleChoice]  # of selective
    single: Candidate | None  # the best overall of those that have all tasks
    front: tuple[Weights, ...]  # selective, then ever cheaper ones, the best of their cost
    intercepts: Weights  # task -> [C] or [1], where its selective is a linear model

    def found(self, method: Method, name: str) -> Combination:
        """A task's weights, or its linear model."""
        weights = self.weights[method][name]
        if method is Method.SELECTIVE and name in self.intercepts:
            return Linear(weights, self.intercepts[name])
        return weights


class Chooser:
    """The candidates of a pool, and the rules that `selective` may use."""

    def __init__(
        self,
        pool: Pool,
        rules: Mapping[str, Rule],
        max_cost: float | None,
        averaged: Averaged = Averaged.PAPER,
        effort: Effort = SHIPPED,
    ) -> None:
        self.tasks = {
            n: TaskPredictions(task_pool, averaged) for n, task_pool in pool.tasks.items()
        }
        self.records = {name: task_pool.task for name, task_pool in pool.tasks.items()}
        self.rules, self.max_cost, self.effort = rules, max_cost, effort
        everyone = {c for task_pool in pool.tasks.values() for c in task_pool.candidates}
        self.cost = Cost.of_pool(everyone)
        if max_cost is not None and not self.cost.is_in_parameters:
            unknown = min(c.label for c in everyone if not (c.num_parameters or c.is_added))
            raise ConfigError(
                f"--max-cost: the parameters of {unknown} are not recorded",
                fix="cap the members instead: --max-members",
            )

    def choose_on(self, which: int, rules: Mapping[str, str] | None = None) -> Decision:
        """Decide by a half of dev, or by all of it.

        Args:
            which: `WHOLE`, or a half, from 1.
            rules: task -> the rule to fit; those that suit the tasks unless given.
        """
        plain = self._best_epoch_of_each_run(which)
        weights: dict[Method, dict[str, Floats]] = {method: {} for method in Method}
        found: dict[str, RuleChoice] = {}
        intercepts: dict[str, Floats] = {}
        for name, of_task in self.tasks.items():
            predictions = of_task.by(which)
            kept, rows = predictions.choosable(which), predictions.rows[which]
            order = [predictions.candidates[m].order for m in kept]
            is_plain = [predictions.candidates[m] in plain for m in kept]
            given, labels = predictions.predictions[kept][:, rows], predictions.labels[rows]
            averaged = predictions.averaged
            listed = [
                p and bool(predictions.listed[m]) for p, m in zip(is_plain, kept, strict=True)
            ]
            distinct, sample = deduplicated(
                predictions.task, given, labels, order, listed, averaged, self.effort
            )
            if rules is None:
                cost = partial(self._cost_of, [predictions.candidates[m] for m in kept[distinct]])
                found[name] = choose_rule(sample, predictions.ids_of(which), self.rules, cost)
            rule = self.rules[found[name].rule if rules is None else rules[name]]
            single = np.array(best_single(predictions.task, given, labels, order, averaged).weights)
            weights[Method.BEST_SINGLE][name] = predictions.spread(kept, single)
            weights[Method.SIMPLE][name] = predictions.spread(
                kept, np.array(is_plain) / sum(is_plain)
            )
            selected, intercept = weights_and_intercept(rule(sample))
            weights[Method.SELECTIVE][name] = predictions.spread(kept[distinct], selected)
            if intercept is not None:
                intercepts[name] = intercept
        front = self._front(weights[Method.SELECTIVE], which, bool(intercepts))
        return Decision(
            weights={**weights, Method.SELECTIVE: front[0]},
            rules=found,
            single=self._best_overall(which),
            front=front,
            intercepts=intercepts,
        )

    def overall(self, weights: Weights, which: int, on_rest: bool = False) -> float:
        """Of what a half, or all of dev, chose: on its own rows, or on the others."""
        scores = {}
        for name, of_task in weights.items():
            predictions = self.tasks[name].by(which)
            rows = ~predictions.rows[which] if on_rest else predictions.rows[which]
            scores[name] = predictions.score(of_task, rows)
        return overall(scores, self.records)

    def encoders(self, weights: Weights) -> set[Candidate]:
        """The distinct ones over all tasks."""
        return {
            self.tasks[name].candidates[m]
            for name, of_task in weights.items()
            for m in np.flatnonzero(of_task)
        }

    def exclusive(self, candidate: Candidate) -> Weights:
        """A candidate that answers alone for every task that it has."""
        return {
            name: predictions.spread([predictions.index[candidate]], 1.0)
            for name, predictions in self.tasks.items()
            if candidate in predictions.index
        }

    def _best_epoch_of_each_run(self, which: int) -> set[Candidate]:
        """Each run's candidate with the best overall; of equals, the earliest epoch."""
        best: dict[str, tuple[float, int, Candidate]] = {}
        for candidate in self._all(which):
            entry = (self.overall(self.exclusive(candidate), which), -candidate.epoch, candidate)
            if candidate.run_id not in best or entry[:2] > best[candidate.run_id][:2]:
                best[candidate.run_id] = entry
        return {candidate for _, _, candidate in best.values()}

    def _best_overall(self, which: int) -> Candidate | None:
        return max(  # of equals, the first
            self._complete(which),
            key=lambda c: self.overall(self.exclusive(c), which),
            default=None,
        )

    def _complete(self, which: int) -> list[Candidate]:
        """Those that have all tasks."""
        return [c for c in self._all(which) if all(c in v.index for v in self.tasks.values())]

    def _all(self, which: int) -> list[Candidate]:
        found = {v.candidates[m] for v in self.tasks.values() for m in v.choosable(which)}
        return sorted(found, key=lambda candidate: candidate.order)

    def _cost_of(self, candidates: Sequence[Candidate], some: NDArray[np.int64]) -> float:
        return self.cost(candidates[m] for m in some)

    def _front(self, weights: Weights, which: int, is_linear: bool) -> tuple[Weights, ...]:
        """Of selective, of what is left of it when one encoder after the other goes, and of each
        candidate alone: those that are better on their rows than all cheaper ones. The first is
        selective, or what `max_cost` leaves of it. A linear model is not taken apart."""
        if is_linear:
            if self.max_cost is not None:
                raise ConfigError(
                    "--max-cost: a linear model cannot be cut down to a cost",
                    fix="cap its members, --max-members, or take another --method",
                )
            return (weights,)
        chain = self._chain(weights, which)
        options = [*chain, *(self.exclusive(candidate) for candidate in self._complete(which))]
        costs = [self.cost(self.encoders(option)) for option in options]
        scores = [self.overall(option, which) for option in options]
        front = [weights]
        limit = costs[0]
        if self.max_cost is not None and limit > self.max_cost:
            if min(costs) > self.max_cost and which == WHOLE:
                raise ConfigError(
                    f"--max-cost: nothing is as cheap as {self.max_cost / 1e6:g} M parameters",
                    fix=f"the cheapest costs {min(costs) / 1e6:g} M",
                )
            front, limit = [], max(int(self.max_cost), min(costs)) + 1
        while cheaper := [n for n, cost in enumerate(costs) if cost < limit]:
            best = max(cheaper, key=lambda n: (scores[n], -costs[n], -n))
            front.append(options[best])
            limit = costs[best]
        return tuple(front)

    def _chain(self, weights: Weights, which: int) -> list[Weights]:
        """Leave out one encoder after the other, each time the one that is missed the least for
        what it costs; shares of those that stay are scaled up."""
        chain = [weights]
        while shorter := self._shorter(chain[-1], which):
            now, cost = self.overall(chain[-1], which), self.cost(self.encoders(chain[-1]))
            per_cost = {}
            for encoder, rest in shorter.items():
                loss = now - self.overall(rest, which)
                # What is gained by leaving it out counts first, whatever it cost.
                saved = max(1, cost - self.cost(self.encoders(rest)))
                per_cost[encoder] = loss / saved if loss > 0 else loss
            chain.append(shorter[min(per_cost, key=per_cost.__getitem__)])
        return chain

    def _shorter(self, weights: Weights, which: int) -> dict[Candidate, Weights]:
        """The weights without each encoder, in their order, that is not alone with a task."""
        found: dict[Candidate, Weights] = {}
        for encoder in sorted(self.encoders(weights), key=lambda candidate: candidate.order):
            others = self.encoders(weights) - {encoder}
            rest = {name: self._without(encoder, name, weights, others, which) for name in weights}
            complete = {name: w for name, w in rest.items() if w is not None}
            if len(complete) == len(rest):
                found[encoder] = complete
        return found

    def _without(
        self, encoder: Candidate, name: str, weights: Weights, others: set[Candidate], which: int
    ) -> Floats | None:
        """A task's weights; one that only this encoder answered takes the best of the others."""
        predictions = self.tasks[name].by(which)
        kept = weights[name].copy()
        if encoder in predictions.index:
            kept[predictions.index[encoder]] = 0.0
        if not kept.any():
            among = sorted(predictions.index[c] for c in others if c in predictions.index)
            if not among:
                return None
            scores = [
                predictions.score(predictions.spread([m], 1.0), predictions.rows[which])
                for m in among
            ]
            kept[among[int(np.argmax(scores))]] = 1.0
        return np.asarray(kept / kept.sum())
