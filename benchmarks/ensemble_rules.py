"""The held-out score of each selection rule, and of the default, which chooses among them.

    python benchmarks/ensemble_rules.py POOL.npz --seeds 0 20

POOL.npz has `<task>_predictions` [models, rows], hard labels or scores, and `<task>_labels` for the
paper's three tasks. Each seed splits the rows in half: one half selects, the other gives the
held-out score. Hard labels become probabilities of 0.9; scores are averaged as by
`--average standardised`. The code is that of `ensweep ensemble`; the default includes the choice of
rule and cost (`--prefer balanced`, `score`), with each model an encoder for one task. Numbers of
members are given too.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from held_out import Floats, Row, choose_and_judge
from numpy.typing import NDArray

from ensemble.candidates.external import smoothed
from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.choice.result import Prefer
from ensemble.selection.combine import Averaged, Transform
from ensemble.selection.rules import RULES
from ensemble.selection.sample import FitData, deduplicated
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS, Output, Task
from trainable.evaluation.metrics import overall

TASKS = ("sentiment", "paraphrase", "similarity")
SINGLE = "single"
Found = dict[str, dict[str, list[Row]]]
"""Rule -> task -> one row per seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(0, 20), help="first seed, and the one after the last"
    )
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    file = np.load(given.pool, allow_pickle=False)
    rules = list(dict.fromkeys([*given.rules, SINGLE]))
    defaults = [f"prefer {prefer.value}" for prefer in (Prefer.SCORE, Prefer.BALANCED)]
    found: Found = {rule: {name: [] for name in TASKS} for rule in (*rules, *defaults)}
    for seed in range(*given.seeds):
        started = time.perf_counter()
        pool, judge = _cut(file, seed)
        for name in TASKS:
            _fit_rules(pool.tasks[name], judge[name], rules, {r: found[r][name] for r in rules})
        for prefer in (Prefer.SCORE, Prefer.BALANCED):
            for name, row in choose_and_judge(pool, judge, prefer).items():
                found[f"prefer {prefer.value}"][name].append(row)
        seconds = time.perf_counter() - started
        print(f"seed {seed}: {seconds:.0f} s", flush=True)
    rows = {rule: _row(found, rule) for rule in found}
    if given.json:
        print(json.dumps({"schema_version": 1, "rules": rows}))
        return
    print("held-out (gain over single, sd; optimism: in-sample minus held-out; members)")
    for rule, cells in rows.items():
        print(f"{rule:17}", "  ".join(f"{name} {text}" for name, text in cells.items()))


def _cut(file: "np.lib.npyio.NpzFile", seed: int) -> tuple[Pool, dict[str, tuple[Floats, Floats]]]:
    """Split the rows: a pool with the half that selects, and outputs and labels of the other
    half."""
    tasks, judge = {}, {}
    for name in TASKS:
        task, labels = PAPER_TASKS[name], file[f"{name}_labels"].astype(np.float64)
        outputs = _outputs(task, file[f"{name}_predictions"])
        is_train = np.zeros(len(labels), np.bool_)
        is_train[np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]] = True
        tasks[name] = TaskPool(
            task=task,
            data_fingerprint="pool",
            ids=tuple(f"{row:06d}" for row in np.flatnonzero(is_train)),
            labels=labels[is_train],
            candidates=tuple(
                Candidate(f"{name}{m:03d}", f"{name}{m:03d}", "pool", 1, "/none", 1)
                for m in range(len(outputs))
            ),
            outputs=outputs[:, is_train].astype(np.float32),
            choosable=np.ones((1 + NUM_HALVES, len(outputs)), np.bool_),
            listed=np.ones(len(outputs), np.bool_),
        )
        judge[name] = outputs[:, ~is_train], labels[~is_train]
    return Pool(tasks, tuple(c for pool in tasks.values() for c in pool.candidates), ()), judge


def _fit_rules(
    pool: TaskPool,
    judge: tuple[Floats, Floats],
    rules: list[str],
    found: dict[str, list[Row]],
) -> None:
    task, averaged = pool.task, Averaged.STANDARDISED
    fits = [Transform.fit(task, averaged, outputs, pool.labels) for outputs in pool.outputs]
    predictions, unseen = (
        np.stack([fit.apply(task, o) for fit, o in zip(fits, outputs, strict=True)])
        for outputs in (pool.outputs, judge[0])
    )
    kept, sample = deduplicated(task, predictions, pool.labels, range(len(fits)))
    other = FitData(task, unseen[kept], judge[1], sample.in_simple)
    for rule in rules:
        fitted: Any = RULES[rule](sample)
        size = np.count_nonzero(getattr(fitted, "weights", fitted))
        found[rule].append((sample.score(fitted), other.score(fitted), int(size)))


def _row(found: Found, rule: str) -> dict[str, str]:
    tasks = {name: PAPER_TASKS[name] for name in TASKS}
    values = {which: {n: np.array(found[which][n]) for n in TASKS} for which in (rule, SINGLE)}
    cells = {}
    for name in (*TASKS, "overall"):
        ours, single = (
            np.array(
                [
                    [overall({n: by_task[n][s, k] for n in TASKS}, tasks) for k in (0, 1)]
                    for s in range(len(by_task[TASKS[0]]))
                ]
            )
            if name == "overall"
            else by_task[name]
            for by_task in (values[rule], values[SINGLE])
        )
        gain, optimism = ours[:, 1] - single[:, 1], ours[:, 0] - ours[:, 1]
        counts = [values[rule][n][:, 2] for n in (TASKS if name == "overall" else (name,))]
        cells[name] = (
            f"{ours[:, 1].mean():.4f} ({gain.mean():+.4f}, {ours[:, 1].std():.4f}; "
            f"{optimism.mean():+.4f}; {np.sum(counts, axis=0).mean():.0f})"
        )
    return cells


def _outputs(task: Task, predictions: NDArray[np.generic]) -> Floats:
    """Predictions as outputs of a head: scores, or logits that give the label a probability of
    0.9."""
    values = predictions.astype(np.float64)
    if task.kind.output is Output.SCORE:
        return values
    return np.stack([smoothed(task, of_model) for of_model in values])


if __name__ == "__main__":
    main()
