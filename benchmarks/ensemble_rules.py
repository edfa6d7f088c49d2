"""What each rule of selection is worth on rows that it has not seen, and the default that chooses.

    python benchmarks/ensemble_rules.py POOL.npz --seeds 0 20      # about four minutes on one core

POOL.npz has `<task>_predictions` [models, rows], hard labels or scores, and `<task>_labels` for the
paper's three tasks. Each seed cuts the rows in two: one half chooses, the other judges. Hard labels
stand for probabilities of 0.9; scores are standardised by the choosing half and clipped at 4.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.inner import choose_rule
from ensemble.rules import RULES
from ensemble.sample import Sample, canonical
from trainable.metrics import overall
from trainable.tasks import PAPER_TASKS, Kind, Task

TASKS = ("sentiment", "paraphrase", "similarity")
SURE = 0.9
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 20), help="first, and one past")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    pool = np.load(given.pool, allow_pickle=False)
    found = {name: _of_task(pool, name, range(*given.seeds)) for name in TASKS}
    rows = {rule: _row(found, rule) for rule in [*RULES, "default"]}
    if given.json:
        print(json.dumps({"schema_version": 1, "rules": rows}))
        return
    print("mean score on judged rows (sd over seeds; optimism: in-sample less judged)")
    for rule, cells in rows.items():
        print(f"{rule:15}", "  ".join(f"{name} {text}" for name, text in cells.items()))


def _row(found: dict[str, dict[str, Floats]], rule: str) -> dict[str, str]:
    cells = {}
    for name in TASKS:
        train, judged = found[name][rule].T
        optimism = float((train - judged).mean())
        cells[name] = f"{judged.mean():.4f} ({judged.std():.4f}; {optimism:+.4f})"
    tasks = {name: PAPER_TASKS[name] for name in TASKS}
    judged = [
        overall({name: float(found[name][rule][seed, 1]) for name in TASKS}, tasks)
        for seed in range(len(found[TASKS[0]][rule]))
    ]
    cells["overall"] = f"{np.mean(judged):.4f} ({np.std(judged):.4f})"
    return cells


def _of_task(pool: "np.lib.npyio.NpzFile", name: str, seeds: range) -> dict[str, Floats]:
    """Rule -> [seeds, 2] score in-sample and judged."""
    task, labels = PAPER_TASKS[name], pool[f"{name}_labels"].astype(np.float64)
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in [*RULES, "default"]}
    chosen = []
    started = time.perf_counter()
    for seed in seeds:
        is_train = np.zeros(len(labels), np.bool_)
        is_train[np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]] = True
        votes = _votes(task, pool[f"{name}_predictions"], is_train)
        order = list(range(len(votes)))
        kept, sample = canonical(task, votes[:, is_train], labels[is_train], order)
        judge = Sample(task, votes[kept][:, ~is_train], labels[~is_train], sample.is_plain)
        ids = [str(row) for row in np.flatnonzero(is_train)]
        weights = {rule: fit(sample) for rule, fit in RULES.items()}
        choice = choose_rule(sample, ids)
        weights["default"] = weights[choice.rule]
        chosen.append(choice.rule)
        for rule, given in weights.items():
            found[rule].append((sample.score(given), judge.score(given)))
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.0f} s; the default took {', '.join(chosen)}", flush=True)
    return {rule: np.array(scores) for rule, scores in found.items()}


def _votes(task: Task, predictions: NDArray[np.generic], is_train: NDArray[np.bool_]) -> Floats:
    if task.kind is Kind.SIMILARITY:
        scores = predictions.astype(np.float64)
        mean = scores[:, is_train].mean(axis=1, keepdims=True)
        spread = scores[:, is_train].std(axis=1, keepdims=True)
        spread[spread < 1e-6 * np.median(spread)] = np.inf
        return np.clip((scores - mean) / spread, -4, 4)
    if task.kind is Kind.PARAPHRASE:
        logit = np.log(SURE / (1 - SURE))
        return np.where(predictions > 0, logit, -logit).astype(np.float64)
    others = (1 - SURE) / (task.num_classes - 1)
    votes = np.full((*predictions.shape, task.num_classes), others)
    np.put_along_axis(votes, predictions[..., None].astype(np.int64), SURE, axis=2)
    return votes


if __name__ == "__main__":
    main()
