"""What each rule of selection is worth on rows that it has not seen, and the default that chooses.

    python benchmarks/ensemble_rules.py POOL.npz --seeds 0 20

POOL.npz has `<task>_predictions` [models, rows], hard labels or scores, and `<task>_labels` for the
paper's three tasks. Each seed cuts the rows in two: one half chooses, the other judges. Hard labels
stand for probabilities of 0.9; scores are averaged as `--average standardised` does it. What makes
predictions of outputs, chooses and averages is what `ensweep ensemble` runs.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.external import smoothed
from ensemble.selection.combine import Averaged, Transform
from ensemble.selection.rule_selection import choose_rule
from ensemble.selection.rules import RULES
from ensemble.selection.sample import FitData, deduplicated
from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.evaluation.metrics import overall

TASKS = ("sentiment", "paraphrase", "similarity")
DEFAULT = "default"
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 20), help="first, and one past")
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    pool = np.load(given.pool, allow_pickle=False)
    found = {name: _of_task(pool, name, range(*given.seeds), given.rules) for name in TASKS}
    rows = {rule: _row(found, rule) for rule in [*given.rules, DEFAULT]}
    if given.json:
        print(json.dumps({"schema_version": 1, "rules": rows}))
        return
    print("held-out (gain over single, sd over seeds; optimism: in-sample less held-out)")
    for rule, cells in rows.items():
        print(f"{rule:17}", "  ".join(f"{name} {text}" for name, text in cells.items()))


def _row(found: dict[str, dict[str, Floats]], rule: str) -> dict[str, str]:
    cells = {}
    tasks = {name: PAPER_TASKS[name] for name in TASKS}
    totals = {}
    for which in (rule, "single"):
        by_seed = zip(*(found[name][which] for name in TASKS), strict=True)
        totals[which] = np.array(
            [
                [
                    overall(dict(zip(TASKS, side, strict=True)), tasks)
                    for side in zip(*of_seed, strict=True)
                ]
                for of_seed in by_seed
            ]
        )
    for name in (*TASKS, "overall"):
        ours, single = (
            (totals[which] if name == "overall" else found[name][which])
            for which in (rule, "single")
        )
        gain, optimism = ours[:, 1] - single[:, 1], ours[:, 0] - ours[:, 1]
        cells[name] = (
            f"{ours[:, 1].mean():.4f} ({gain.mean():+.4f}, {ours[:, 1].std():.4f}; "
            f"{optimism.mean():+.4f})"
        )
    return cells


def _of_task(
    pool: "np.lib.npyio.NpzFile", name: str, seeds: range, rules: list[str]
) -> dict[str, Floats]:
    """Rule -> [seeds, 2] score in-sample and held-out."""
    task, labels = PAPER_TASKS[name], pool[f"{name}_labels"].astype(np.float64)
    outputs = _outputs(task, pool[f"{name}_predictions"])
    found: dict[str, list[tuple[float, float]]] = {r: [] for r in {*rules, "single", DEFAULT}}
    chosen = []
    started = time.perf_counter()
    for seed in seeds:
        is_train = np.zeros(len(labels), np.bool_)
        is_train[np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]] = True
        predictions = np.stack(
            [
                Transform.fit(
                    task, Averaged.STANDARDISED, of_model[is_train], labels[is_train]
                ).apply(task, of_model)
                for of_model in outputs
            ]
        )
        order = list(range(len(predictions)))
        kept, sample = deduplicated(task, predictions[:, is_train], labels[is_train], order)
        judge = FitData(task, predictions[kept][:, ~is_train], labels[~is_train], sample.is_plain)
        ids = [str(row) for row in np.flatnonzero(is_train)]
        choice = choose_rule(sample, ids)
        chosen.append(choice.rule)
        fitted = {rule: RULES[rule](sample) for rule in {*rules, "single", choice.rule}}
        for rule in found:
            given = fitted[choice.rule if rule == DEFAULT else rule]
            found[rule].append((sample.score(given), judge.score(given)))
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.0f} s; the default took {', '.join(chosen)}", flush=True)
    return {rule: np.array(scores) for rule, scores in found.items()}


def _outputs(task: Task, predictions: NDArray[np.generic]) -> Floats:
    """As a head puts them out: scores, or logits of labels that are 0.9 sure."""
    values = predictions.astype(np.float64)
    if task.kind is Kind.SIMILARITY:
        return values
    return np.stack([smoothed(task, of_model) for of_model in values])


if __name__ == "__main__":
    main()
