"""The false positive rate and the power of the significance stars of `ensweep ablate`.

    python benchmarks/stars.py --tables 200

Simulated tables go through the code of `ensweep ablate`. The probability that a run predicts a dev
row correctly depends on the dev row, whose difficulty all runs share, and on the run's seed. One
row of each table may be better by an effect.
"""

import argparse
import json

import numpy as np
from scipy.special import ndtr, ndtri

from ensemble.statistics.bootstrap import Draws
from search.ablation.compare import compare
from search.ablation.differences import MIN_SEEDS
from search.ablation.row_results import Result
from trainable.config.tasks import PAPER_TASKS

TASK = PAPER_TASKS["paraphrase"]
NAMES = ("sentiment", "paraphrase", "similarity")
"""Three tasks of one kind: only the statistics are tested."""

HARDNESS = 1.5
"""The standard deviation of the difficulty of dev rows, in probits."""


def main() -> None:
    """Simulate, then print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=200, help="tables of each kind")
    parser.add_argument("--rows", type=int, default=24, help="rows of a table, including the base")
    parser.add_argument("--dev", type=int, default=1000, help="dev rows of a task")
    parser.add_argument("--replicates", type=int, default=100, help="bootstrap replicates")
    parser.add_argument(
        "--sd", type=float, nargs="+", default=[0.015, 0.03], help="standard deviations over seeds"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument(
        "--effect", type=float, nargs="+", default=[0.0], help="true effects of the last row"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = [
        {"sd": sd, "seeds": seeds, "effect": effect, **simulate(given, sd, seeds, effect)}
        for sd in given.sd
        for seeds in given.seeds
        for effect in given.effect
    ]
    if given.json:
        print(json.dumps({"schema_version": 1, "results": found}))
        return
    print(f"{given.tables} tables of {given.rows} rows, {given.dev} dev rows per task")
    for row in found:
        print(
            f"sd {row['sd']:.3f}, {row['seeds']} seeds, effect {row['effect']:.3f}: tables with a "
            f"false star {row['tables_starred']:.3f}, differences with one {row['starred']:.4f}, "
            f"intervals that miss the truth {row['missed']:.3f}, effect starred {row['power']:.2f}"
        )


def simulate(
    given: argparse.Namespace, sd: float, num_seeds: int, effect: float
) -> dict[str, float]:
    """Shares over all tables; `missed` is the share of all intervals that miss the true
    difference."""
    random = np.random.default_rng([int(sd * 1e6), num_seeds, int(effect * 1e6)])
    last = f"row{given.rows - 1}"
    tables_starred = starred = missed = power = 0.0
    for _ in range(given.tables):
        results = table(given, sd, num_seeds, effect, random)
        bases = dict.fromkeys(list(results)[1:], "row0")
        found = compare(results, bases, Draws(given.replicates))
        null = [each for label in found if label != last for each in found[label].values()]
        own = list(found[last].values())
        if not effect:
            null += own
        is_starred = [each.is_clear for each in null]
        assert num_seeds >= MIN_SEEDS or not any(is_starred)
        tables_starred += any(is_starred)
        starred += np.mean(is_starred)
        truths = [(each, 0.0) for each in null] + [(each, effect) for each in own if effect]
        missed += np.mean([not each.low <= truth <= each.high for each, truth in truths])
        power += np.mean([each.is_clear for each in own])
    counts = {"tables_starred": tables_starred, "starred": starred, "missed": missed}
    return {key: value / given.tables for key, value in {**counts, "power": power}.items()}


def table(
    given: argparse.Namespace, sd: float, num_seeds: int, effect: float, random: np.random.Generator
) -> dict[str, list[Result]]:
    """The results of all rows. A run's accuracy is .5 to .8 by task, with the standard deviation
    `sd` over seeds."""
    results: dict[str, list[Result]] = {}
    labels = np.ones(given.dev)
    hardness = {name: HARDNESS * random.normal(size=given.dev) for name in NAMES}
    for row in range(given.rows):
        for seed in range(num_seeds):
            outputs = {}
            for level, name in zip((0.5, 0.7, 0.8), NAMES, strict=True):
                accuracy = level + (effect if row == given.rows - 1 else 0) + random.normal(0, sd)
                skill = ndtri(np.clip(accuracy, 0.01, 0.99)) * np.hypot(1, HARDNESS)
                outputs[name] = ndtr(skill - hardness[name]) - random.uniform(size=given.dev)
            empty = dict.fromkeys(NAMES, "")
            ids: dict[str, tuple[str, ...]] = dict.fromkeys(NAMES, ())
            every = dict.fromkeys(NAMES, labels)
            tasks = dict.fromkeys(NAMES, TASK)
            one = Result(f"{row}-{seed}", seed, 1, [], tasks, empty, ids, outputs, every)
            results.setdefault(f"row{row}", []).append(one)
    return results


if __name__ == "__main__":
    main()
