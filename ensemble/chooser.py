"""Some rows of dev -> what each method chooses by their labels alone, and by nothing else.

Legend: M candidates of a task, N rows, C classes, H halves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates import Candidate, Pool, TaskPool
from ensemble.choice import Method, cost
from ensemble.combine import average, to_vote
from ensemble.halves import halves
from ensemble.inner import RuleChoice, choose_rule
from ensemble.rules import Rule, canonical
from ensemble.selection import best_single
from trainable.metrics import overall, task_metric

Floats = NDArray[np.float64]
Indices = NDArray[np.int64] | list[int]
Weights = Mapping[str, Floats]
"""Task -> [M]."""

WHOLE = 0
"""All of dev, where the halves are counted from 1."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What some rows choose."""

    weights: dict[Method, Weights]
    rules: dict[str, RuleChoice]  # of selective
    single: Candidate | None  # the best overall of those that have all tasks
    chain: tuple[Weights, ...]  # selective, then with one encoder less each time, down to one


class Chooser:
    """The candidates of a pool, and the rules that `selective` may use."""

    def __init__(self, pool: Pool, rules: Mapping[str, Rule], max_cost: float | None) -> None:
        self.tasks = {name: TaskVotes(task_pool) for name, task_pool in pool.tasks.items()}
        self.records = {name: task_pool.task for name, task_pool in pool.tasks.items()}
        self.rules, self.max_cost = rules, max_cost

    def choose_on(self, which: int, rules: Mapping[str, str] | None = None) -> Decision:
        """Decide by a half of dev, or by all of it.

        Args:
            which: `WHOLE`, or a half, from 1.
            rules: task -> the rule to fit; those that suit the tasks unless given.
        """
        plain = self._best_epoch_of_each_run(which)
        weights: dict[Method, dict[str, Floats]] = {method: {} for method in Method}
        found: dict[str, RuleChoice] = {}
        for name, votes in self.tasks.items():
            kept, rows = votes.choosable(which), votes.rows[which]
            order = [votes.candidates[m].order for m in kept]
            is_plain = [votes.candidates[m] in plain for m in kept]
            given, labels = votes.votes[kept][:, rows], votes.labels[rows]
            listed = [p and bool(votes.listed[m]) for p, m in zip(is_plain, kept, strict=True)]
            distinct, sample = canonical(votes.task, given, labels, order, listed)
            if rules is None:
                found[name] = choose_rule(sample, votes.ids_of(which), self.rules)
            rule = self.rules[found[name].rule if rules is None else rules[name]]
            single = np.array(best_single(votes.task, given, labels, order).weights)
            weights[Method.BEST_SINGLE][name] = votes.spread(kept, single)
            weights[Method.SIMPLE][name] = votes.spread(kept, np.array(is_plain) / sum(is_plain))
            weights[Method.SELECTIVE][name] = votes.spread(kept[distinct], rule(sample))
        chain = self._chain(weights[Method.SELECTIVE], which)
        return Decision(
            weights={**weights, Method.SELECTIVE: chain[0]},
            rules=found,
            single=self._best_overall(which),
            chain=chain,
        )

    def overall(self, weights: Weights, which: int, on_rest: bool = False) -> float:
        """Of what a half, or all of dev, chose: on its own rows, or on the others."""
        scores = {
            name: votes.score(weights[name], ~votes.rows[which] if on_rest else votes.rows[which])
            for name, votes in self.tasks.items()
            if name in weights
        }
        return overall(scores, self.records)

    def encoders(self, weights: Weights) -> set[Candidate]:
        """The distinct ones over all tasks."""
        return {
            self.tasks[name].candidates[m]
            for name, of_task in weights.items()
            for m in np.flatnonzero(of_task)
        }

    def alone(self, candidate: Candidate) -> Weights:
        """A candidate that answers alone for every task that it has."""
        return {
            name: votes.spread(np.array([votes.candidates.index(candidate)]), np.ones(1))
            for name, votes in self.tasks.items()
            if candidate in votes.candidates
        }

    def _best_epoch_of_each_run(self, which: int) -> set[Candidate]:
        """Each run's candidate with the best overall; of equals, the earliest epoch."""
        best: dict[str, tuple[float, int, Candidate]] = {}
        for candidate in self._all(which):
            entry = (self.overall(self.alone(candidate), which), -candidate.epoch, candidate)
            if candidate.run_id not in best or entry[:2] > best[candidate.run_id][:2]:
                best[candidate.run_id] = entry
        return {candidate for _, _, candidate in best.values()}

    def _best_overall(self, which: int) -> Candidate | None:
        complete = [c for c in self._all(which) if len(self.alone(c)) == len(self.tasks)]
        return max(  # of equals, the first
            complete, key=lambda c: self.overall(self.alone(c), which), default=None
        )

    def _all(self, which: int) -> list[Candidate]:
        found = {v.candidates[m] for v in self.tasks.values() for m in v.choosable(which)}
        return sorted(found, key=lambda candidate: candidate.order)

    def _chain(self, weights: Weights, which: int) -> tuple[Weights, ...]:
        """Leave out one encoder after the other, each time the one that is missed the least for
        what it costs; shares of those that stay are scaled up. It starts at `max_cost`."""
        chain = [weights]
        while shorter := self._shorter(chain[-1], which):
            now = self.overall(chain[-1], which)
            missed = {c: now - self.overall(rest, which) for c, rest in shorter.items()}
            # What is gained by leaving it out counts first, whatever it cost.
            per_cost = {c: loss / cost([c]) if loss > 0 else loss for c, loss in missed.items()}
            chain.append(shorter[min(per_cost, key=per_cost.__getitem__)])
        if self.max_cost is not None:
            cheap = [w for w in chain if cost(self.encoders(w)) <= self.max_cost]
            chain = cheap or chain[-1:]
        return tuple(chain)

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
        votes = self.tasks[name]
        kept = np.where([c == encoder for c in votes.candidates], 0.0, weights[name])
        if not kept.any():
            among = [m for m, c in enumerate(votes.candidates) if c in others]
            if not among:
                return None
            scores = [votes.score(votes.spread([m], 1.0), votes.rows[which]) for m in among]
            kept[among[int(np.argmax(scores))]] = 1.0
        return np.asarray(kept / kept.sum())


class TaskVotes:
    """A task's candidates and their votes on dev."""

    def __init__(self, pool: TaskPool) -> None:
        self.task, self.candidates, self.labels = pool.task, pool.candidates, pool.labels
        self.ids, self._choosable, self.listed = pool.ids, pool.choosable, pool.listed
        self.votes = np.stack([to_vote(pool.task, outputs) for outputs in pool.outputs])
        self.rows = np.vstack([np.ones(len(pool.ids), np.bool_), halves(pool.ids)])  # [1 + H, N]

    def choosable(self, which: int) -> NDArray[np.int64]:
        """The candidates that a half, or all of dev, can choose."""
        return np.flatnonzero(self._choosable[which])

    def ids_of(self, which: int) -> list[str]:
        return [self.ids[n] for n in np.flatnonzero(self.rows[which])]

    def spread(
        self, candidates: "NDArray[np.int64] | list[int]", weights: Floats | float
    ) -> Floats:
        """[M] the weights of some, 0 for the others."""
        found = np.zeros(len(self.candidates))
        found[candidates] = weights
        return found

    def outputs(self, weights: Floats, rows: NDArray[np.bool_]) -> Floats:
        """The weighted average on some rows."""
        members = np.flatnonzero(weights)
        return average(self.task, self.votes[members][:, rows], weights[members].tolist())

    def score(self, weights: Floats, rows: NDArray[np.bool_]) -> float:
        """The task's metric on some rows."""
        return task_metric(self.task, self.outputs(weights, rows), self.labels[rows])[0]
