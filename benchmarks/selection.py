"""Compare our greedy selection with a naive loop and with AutoGluon's, in one run.

    python benchmarks/selection.py                                # without AutoGluon
    python benchmarks/selection.py --autogluon VENV/bin/python    # has autogluon.core installed

Pools are simulated: candidates are about as accurate as real ones, and share errors. All sizes are
those of the paper's dev files, except for paraphrase, where it is that of a dev split of the
training file. Timed are fifty rounds on one thread, from probabilities or scores in memory to
weights, including preparation. The naive loop and AutoGluon run as many rounds as `--slow-seconds`
allow, at least two; their rounds all cost the same, so the time of fifty is extrapolated from the
mean. Selections are compared by the score after each round: they differ only after a tie of
candidates that was broken differently, or that AutoGluon's rounding to six digits caused.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score
from threadpoolctl import threadpool_limits

from ensemble.selection.combine import GRID
from ensemble.selection.greedy import greedy
from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import PAPER_TASKS, Output

POOLS = {"sentiment": 1101, "paraphrase": 40_430, "similarity": 863}
"""Task -> number of rows."""
SIZES = (20, 200, 1000)
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--autogluon", type=Path, help="a Python that has autogluon.core")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of candidates")
    parser.add_argument("--tasks", nargs="*", choices=POOLS, default=list(POOLS))
    parser.add_argument(
        "--repeats", type=int, default=5, help="repetitions of ours; the median counts"
    )
    parser.add_argument(
        "--slow-seconds", type=float, default=20.0, help="time limit for each slow method"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for name, size in product(given.tasks, given.sizes):
        with threadpool_limits(1):
            rows.append(cell(name, size, given.repeats, given.slow_seconds, given.autogluon))
        if not given.json:
            print(line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps({"schema_version": 1, "num_rounds": SHIPPED.num_rounds, "rows": rows}))


def cell(
    name: str, size: int, repeats: int, slow_seconds: float, autogluon: Path | None
) -> dict[str, Any]:
    """Measure one pool: the seconds of fifty rounds of each method, and the number of first rounds
    whose scores agree."""
    task = PAPER_TASKS[name]
    predictions, labels = make_pool(name, size, POOLS[name])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = greedy(task, predictions, labels, range(size))
        seconds.append(time.perf_counter() - started)
    row: dict[str, Any] = {"task": name, "candidates": size, "rows": len(labels)}
    row |= {"ours": median(seconds), "trajectory": list(found.trajectory)}
    slow = {"naive": naive(name, predictions, labels, slow_seconds)}
    if autogluon is not None:
        slow["autogluon"] = in_autogluon(autogluon, name, predictions, labels, slow_seconds)
    for who, (taken, scores) in slow.items():
        row[who] = taken / len(scores) * SHIPPED.num_rounds
        row[f"{who}_rounds"] = len(scores)
        same = np.isclose(scores, found.trajectory[: len(scores)], atol=1e-6)
        row[f"{who}_same"] = int(same.cumprod().sum())
    return row


def line(row: dict[str, Any]) -> str:
    """One result as text."""
    text = f"{row['task']:11}{row['candidates']:5} candidates  ours {1e3 * row['ours']:8.1f} ms"
    for who in ("naive", "autogluon"):
        if who in row:
            rounds, same = row[f"{who}_rounds"], row[f"{who}_same"]
            text += f"  {who} {row[who]:8.2f} s ({rounds} rounds, {same} with our score)"
            text += f" {row[who] / row['ours']:6.0f}x"
    return text


def make_pool(name: str, size: int, num_rows: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Simulated predictions [M, N] or [M, N, C], as `ensemble.selection.combine` returns them, and
    labels [N]."""
    task, rng = PAPER_TASKS[name], np.random.default_rng([seed, size, num_rows])
    skill = rng.uniform(0.6, 1.0, size)
    if task.kind.output is Output.SCORE:
        labels = rng.uniform(0, 5, num_rows)
        shared = rng.standard_normal(num_rows)
        noise = 0.7 * shared + 0.7 * rng.standard_normal((size, num_rows))
        return labels * skill[:, None] + 1.2 * noise, labels
    num_classes = task.num_outputs if task.kind.output is Output.CLASSES else 2
    classes = rng.integers(num_classes, size=num_rows)
    shared = 0.8 * rng.standard_normal((num_rows, num_classes))
    truth = np.eye(num_classes)[classes]
    predictions = np.empty((size, num_rows, num_classes) if num_classes > 2 else (size, num_rows))
    for m in range(size):
        logits = skill[m] * truth + shared + 0.6 * rng.standard_normal(shared.shape)
        if num_classes > 2:
            odds = np.exp(1.5 * logits)
            predictions[m] = odds / odds.sum(axis=1, keepdims=True)
        else:
            predictions[m] = 1.5 * (logits[:, 1] - logits[:, 0])
    return np.rint(predictions * GRID) / GRID, classes.astype(np.float64)


def naive(
    name: str, predictions: Floats, labels: Floats, limit: float
) -> tuple[float, list[float]]:
    """Run the textbook loop with scikit-learn's metric. Return its seconds, and the score after
    each round."""
    kind, total = PAPER_TASKS[name].kind, np.zeros_like(predictions[0])
    scores: list[float] = []
    started = time.perf_counter()
    while len(scores) < SHIPPED.num_rounds and (
        len(scores) < 2 or time.perf_counter() - started < limit
    ):
        found = []
        for prediction in predictions:
            mean = (total + prediction) / (len(scores) + 1)
            if kind.output is Output.SCORE:
                found.append(float(pearsonr(mean, labels).statistic))
            else:
                classes = mean.argmax(axis=1) if mean.ndim == 2 else mean > 0
                found.append(float(accuracy_score(labels, classes)))
        total = total + predictions[int(np.argmax(found))]
        scores.append(max(found))
    return time.perf_counter() - started, scores


AUTOGLUON = """
import json, os, sys, time
import numpy as np
from autogluon.core.metrics import accuracy, pearsonr
from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection
pool = np.load(sys.argv[1]); kind, limit = sys.argv[2], float(sys.argv[3])
predictions, labels = pool["predictions"], pool["labels"]
metric = pearsonr if kind == "regression" else accuracy
labels = labels if kind == "regression" else labels.astype(np.int64)
def run(rounds):
    state = np.random.RandomState(0)
    selection = EnsembleSelection(rounds, kind, metric, random_state=state, use_best=False)
    started = time.perf_counter()
    selection.fit(list(predictions), labels)
    return time.perf_counter() - started, [1 - error for error in selection.trajectory_]
one, _ = run(1)
seconds, trajectory = run(int(min(int(sys.argv[4]), max(2, limit / one))))
print(json.dumps([seconds, trajectory]))
"""


def in_autogluon(
    python: Path, name: str, predictions: Floats, labels: Floats, limit: float
) -> tuple[float, list[float]]:
    """The same as `naive` for AutoGluon's `EnsembleSelection`, in another Python."""
    task = PAPER_TASKS[name]
    problems = {Output.SCORE: "regression", Output.BINARY: "binary"}
    kind = problems.get(task.kind.output, "multiclass")
    if task.kind.output is Output.BINARY:
        predictions = 0.5 + predictions / (
            4 * np.abs(predictions).max()
        )  # averages stay on the same side of 0.5
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "pool.npz", predictions=predictions, labels=labels)
        words = [f"{folder}/pool.npz", kind, str(limit), str(SHIPPED.num_rounds)]
        command = [str(python), "-c", AUTOGLUON, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, scores = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), [float(score) for score in scores]


if __name__ == "__main__":
    main()
