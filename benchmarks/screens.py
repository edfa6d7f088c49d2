"""False positive and true positive rates of the screens for models that have seen dev.

    python benchmarks/screens.py POOL.npz --pools 100      # about a minute on one core

POOL.npz is as for `ensemble_rules.py`: hard labels or scores of many models for the paper's three
tasks, none of which was trained on the rows. Random pools of 4 to 11 of them are screened, and
again with one more model that predicts the labels with a little noise.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.external import smoothed
from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.candidates.screening import screened
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS, Output

TASKS = ("sentiment", "paraphrase", "similarity")
FEWEST, MOST = 4, 11
NOISE = 0.02
"""The share of labels drawn again; for scores, the noise's standard deviation relative to their
range."""
KINDS = ("seems to have seen dev", "the same for all", "a duplicate")

Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--pools", type=int, default=100, help="random pools of each task")
    given = parser.parse_args()
    stored = np.load(given.pool, allow_pickle=False)
    for name in TASKS:
        predictions = stored[f"{name}_predictions"].astype(np.float64)
        labels = stored[f"{name}_labels"].astype(np.float64)
        print(f"{name}: all {len(predictions)}: {_counts([_screened(name, predictions, labels)])}")
        rng = np.random.default_rng(1)
        honest, planted = [], []
        for _ in range(given.pools):
            size = rng.integers(FEWEST, MOST + 1)
            some = predictions[rng.choice(len(predictions), size, replace=False)]
            honest.append(_screened(name, some, labels))
            told = _near_labels(name, labels, rng)
            planted.append(_screened(name, np.vstack([some, told[None]]), labels))
        found = sum(any(KINDS[0] in reason for reason in reasons) for reasons in planted)
        print(f"  {given.pools} random pools: {_counts(honest)}; one planted: found in {found}")


def _near_labels(name: str, labels: Floats, rng: np.random.Generator) -> Floats:
    task = PAPER_TASKS[name]
    if task.kind.output is Output.SCORE:
        return labels + NOISE * task.max_score * rng.standard_normal(len(labels))
    anew = rng.integers(0, task.num_classes, len(labels))
    return np.where(rng.random(len(labels)) < NOISE, anew, labels)


def _screened(name: str, predictions: Floats, labels: Floats) -> list[str]:
    """The reasons for which models are rejected."""
    task = PAPER_TASKS[name]
    is_scored = task.kind.output is Output.SCORE
    outputs = np.stack([row if is_scored else smoothed(task, row) for row in predictions])
    count = len(outputs)
    candidates = tuple(
        Candidate(f"run{m:03d}", f"{m:03d}", "pool", 1, "/none", 0) for m in range(count)
    )
    pool = TaskPool(
        task=task,
        data_fingerprint="pool",
        ids=tuple(f"{row:06d}" for row in range(len(labels))),
        labels=labels,
        candidates=candidates,
        outputs=outputs.astype(np.float32),
        choosable=np.ones((1 + NUM_HALVES, count), np.bool_),
        listed=np.ones(count, np.bool_),
    )
    return [one.reason for one in screened(Pool({name: pool}, candidates, ())).rejected]


def _counts(pools: list[list[str]]) -> str:
    found = [sum(kind in reason for reasons in pools for reason in reasons) for kind in KINDS]
    return f"{found[0]} suspected, {found[1]} constant, {found[2]} duplicates"


if __name__ == "__main__":
    main()
