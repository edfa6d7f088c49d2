"""Compare each row of a study with its base: scores, differences and their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import Draws, overall_of
from ensemble.statistics.effort import SHIPPED
from mlflow_setup.errors import EnsweepError, IntegrityError, NothingUsableError
from mlflow_setup.schema import OVERALL
from mlflow_setup.text import first_line
from search.ablation.curves import Curve, curves_of
from search.ablation.differences import Difference, Pair, differences_of, holm
from search.ablation.row_results import Result, Row, averaged, num_independent, read_result
from trainable.evaluation.metrics import overall


@dataclass(frozen=True)
class Run:
    """One trial of a row at the best overall epoch of its last stage, or the average of several."""

    trial: str
    seed: int
    epoch: int | None
    scores: dict[str, float]  # task -> its metric; "overall"


@dataclass(frozen=True)
class Line:
    """A row of the table. It has no scores where one of its trials has none; `problem` says why."""

    label: str
    recipe: str
    runs: tuple[Run, ...] = ()
    differences: dict[str, Difference] | None = None  # task or "overall"; None for the first row
    problem: str | None = None
    base: str | None = None  # label of the row that it is compared with
    table: str = ""  # name of the included study that it belongs to

    def mean(self, name: str) -> float | None:
        """Mean of a task's metric or of "overall" over the seeds; None without a score."""
        values = [run.scores[name] for run in self.runs if name in run.scores]
        return float(np.mean(values)) if values else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        values = [run.scores[name] for run in self.runs if name in run.scores]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class AblationTable:
    """The data of a study's tables and figures."""

    lines: tuple[Line, ...]  # the first is the default base of the others
    names: tuple[str, ...]  # tasks, then "overall"
    curves: dict[str, Curve]  # task -> learning curve of the row `curves_of`
    curves_of: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: the lines with means, spreads and differences; null if unknown."""
        lines = [
            {
                **asdict(line),
                "scores": {name: line.mean(name) for name in self.names},
                "spreads": {name: line.spread(name) for name in self.names},
            }
            for line in self.lines
        ]
        curves = {
            name: {key: _or_null(value) for key, value in asdict(curve).items()}
            for name, curve in self.curves.items()
        }
        return {"lines": lines, "curves": curves, "curves_of": self.curves_of}


def evaluate(
    rows: Sequence[Row], num_replicates: int = SHIPPED.num_replicates, curves_of_row: str = ""
) -> AblationTable:
    """Compare every row with its base: the first row, unless the row names others above it.

    Args:
        curves_of_row: label of the row whose curves are drawn; the first row if it has no scores.

    Raises:
        NothingUsableError: the first row has no scores.
        IntegrityError: a row has other seeds than the first row, or is scored on other data.
    """
    trials: dict[Path, Result] = {}
    results: dict[str, list[Result]] = {}  # label -> a result for each seed
    problems: dict[str, str] = {}
    first: list[Result] = []
    for row in rows:
        try:
            own = _results(row, trials, results, first)
        except (EnsweepError, OSError, ValueError) as error:
            if not first:
                raise NothingUsableError(
                    f"the base row {row.label!r} has no scores: {error}",
                    fix="run the study again; the other rows are compared with this one",
                ) from None
            problems[row.label] = first_line(error)
            continue
        first = first or own
        _require_pairs(row, own, first)
        results[row.label] = own
    bases = {row.label: _base_of(row, rows[0].label, results) for row in rows[1:]}
    for label, base in bases.items():
        if base not in results:
            problems.setdefault(label, f"its base {base} has no scores")
    pairs = {label: base for label, base in bases.items() if label not in problems}
    differences = compare(results, pairs, Draws(num_replicates))
    lines = []
    for row in rows:
        runs = tuple(_run(result, set(first[0].tasks)) for result in results.get(row.label, []))
        problem, its_base = problems.get(row.label), bases.get(row.label)
        line = Line(
            row.label, row.recipe, runs, differences.get(row.label), None, its_base, row.table
        )
        lines.append(replace(line, runs=(), problem=problem) if problem else line)
    with_curves = curves_of_row if curves_of_row in results else rows[0].label
    names = (*first[0].tasks, OVERALL)
    return AblationTable(tuple(lines), names, curves_of(results[with_curves]), with_curves)


def compare(
    results: Mapping[str, Sequence[Result]], bases: Mapping[str, str], draws: Draws
) -> dict[str, dict[str, Difference]]:
    """Return label -> task or "overall" -> the row's difference to its base.

    Args:
        results: label -> a result for each seed, the same seeds in all rows.
        bases: label of each row to compare -> label of its base.
    """
    first = next(iter(results.values()))[0]
    replicates = {
        label: _replicates(own, set(first.tasks), draws) for label, own in results.items()
    }
    independent = {label: num_independent(own) for label, own in results.items()}
    keys: list[tuple[str, str]] = []
    flat: list[Difference] = []
    for name in (*first.tasks, OVERALL):
        known = {label: values[name] for label, values in replicates.items() if name in values}
        pairs = [
            Pair(label, base, known[label] - known[base])
            for label, base in bases.items()
            if label in known and base in known
        ]
        scores = {label: values[:, 0] for label, values in known.items()}
        keys += [(pair.row, name) for pair in pairs]
        flat += differences_of(scores, independent, pairs)
    differences: dict[str, dict[str, Difference]] = {label: {} for label in bases}
    for (label, name), difference in zip(keys, holm(flat), strict=True):
        differences[label][name] = difference
    return differences


def _replicates(own: Sequence[Result], all_tasks: set[str], draws: Draws) -> dict[str, Floats]:
    """Return task -> scores [S, 1 + R], on the dev rows as they are, then on each replicate.

    With "overall" where the row has all tasks.
    """
    tasks = own[0].tasks
    replicates = {
        name: np.stack(
            [
                draws.scores((each.name, name), task, each.outputs[name], each.labels[name])
                for each in own
            ]
        )
        for name, task in tasks.items()
    }
    return replicates | (
        {OVERALL: overall_of(replicates, tasks)} if set(tasks) == all_tasks else {}
    )


def _base_of(row: Row, first: str, results: Mapping[str, Sequence[Result]]) -> str:
    """Return the label of the row's base: of several named rows the best by mean overall."""
    known = [label for label in row.bases if label in results]
    if len(known) < 2:
        return (known or [*row.bases, first])[0]
    return max(
        known,
        key=lambda label: np.mean(
            [_run(each, set(each.tasks)).scores[OVERALL] for each in results[label]]
        ),
    )


def _results(
    row: Row, trials: dict[Path, Result], results: Mapping[str, list[Result]], base: list[Result]
) -> list[Result]:
    """Return a row's results, one for each seed.

    `trials` caches the results that were read: rows may share trials.
    """
    if not row.members:
        for path in row.trials:
            if path not in trials:
                trials[path] = read_result(path)
        return [trials[path] for path in row.trials]
    labels = {label for chosen in row.members.values() for label in chosen}
    missing = sorted(labels - set(results))
    if missing:
        raise IntegrityError(f"no scores of {', '.join(missing)}")
    return [
        averaged(
            row.label,
            first,
            {name: [results[label][n] for label in chosen] for name, chosen in row.members.items()},
        )
        for n, first in enumerate(base)
    ]


def _run(result: Result, all_tasks: set[str]) -> Run:
    """Return the scores of a result; overall only with the first row's tasks, else it would not be
    comparable."""
    scores = {name: result.score(name) for name in result.tasks}
    if set(result.tasks) == all_tasks:
        scores[OVERALL] = overall(scores, result.tasks)
    return Run(result.name, result.seed, result.epoch, scores)


def _require_pairs(row: Row, own: Sequence[Result], base: Sequence[Result]) -> None:
    """Check that the row has the base row's seeds and dev rows: differences are paired by both.

    Raises:
        IntegrityError: it has not.
    """
    seeds, expected = [result.seed for result in own], [result.seed for result in base]
    if seeds != expected:
        raise IntegrityError(
            f"row {row.label!r} has the seeds {seeds}, the base row {expected}",
            fix="run every row over the same seeds",
        )
    for result in own:
        for name in [name for name in base[0].tasks if name in result.tasks]:
            if result.scored_on(name) != base[0].scored_on(name):
                raise IntegrityError(
                    f"trial {result.name}: {name} is scored on other data than the base "
                    "row, or by another metric",
                    fix="run the whole study on one data folder with one set of tasks",
                )


def _or_null(value: str | tuple[float, ...]) -> str | list[float | None]:
    """Replace NaN, which JSON does not have, with None."""
    if isinstance(value, str):
        return value
    return [None if math.isnan(number) else number for number in value]
