"""Compare batches of sentences of similar length with batches drawn uniformly.

    python benchmarks/batches.py --data-dir DATA --steps 60

For each pair task: the spread of sentence lengths within a batch, and how often a pair's in-batch
negatives in MNR are near-duplicates, that is, share most of their words with it. Then the CPU
seconds of a B3 training step for both, measured alternately, over random batches of an epoch.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainable.batches.sampler import Step, plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.runtime.seeding import generator
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

NEAR = 0.6
"""The Jaccard similarity of the words from which a negative counts as a near-duplicate."""


def main() -> None:
    """Measure, then print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kinds = {str(by_length): prepared(given, by_length) for by_length in (True, False)}
    found = {key: pair_statistics(dataset, plan) for key, (_, dataset, plan) in kinds.items()}
    seconds: dict[str, list[float]] = {key: [] for key in kinds}
    for number in range(-5, given.steps):  # the first ones are slower
        for key, (learner, _, plan) in kinds.items():
            (batch,) = learner.batches([plan[number]], 1)
            started = time.process_time()
            learner.step(batch, 1, number % len(plan))
            if number >= 0:
                seconds[key].append(time.process_time() - started)
    for key, values in found.items():
        values["processor seconds a step"] = float(np.mean(seconds[key]))
    if given.json:
        print(json.dumps({"schema_version": 1, "by_length": found}))
        return
    for by_length, values in found.items():
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        print(f"by length {by_length:5}: {shown}")


def prepared(given: argparse.Namespace, by_length: bool) -> tuple[Learner, Dataset, list[Step]]:
    """B3 before its first step, and the steps of its first epoch in a random order."""
    settings = [
        *(f"data.dir={given.data_dir}", "data.on_bad_rows=skip", f"model.encoder={given.encoder}"),
        *(
            "model.pooling=mean",
            "pretrain.enabled=false",
            f"batching.by_length={by_length}".lower(),
        ),
    ]
    config = resolve("b3", settings, {}).config
    dataset = read_dataset(config)
    learner = Learner(config, dataset)
    learner.enter(stages_of(config)[0])
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    plan = plan_epoch(lengths, config.batching, config.seed, 1)
    return learner, dataset, [plan[n] for n in generator(0, "timed").permutation(len(plan))]


def pair_statistics(dataset: Dataset, plan: Sequence[Step]) -> dict[str, float]:
    """For each pair task: the spread of lengths in words, and near-duplicates per 1,000
    negatives."""
    values: dict[str, float] = {}
    for name in ("paraphrase", "similarity"):
        own = [step for step in plan if step.task_name == name]
        spread, near = batch_statistics(dataset, name, own)
        values |= {f"{name}: spread": spread, f"{name}: near-duplicates in 1,000": near}
    return values


def batch_statistics(dataset: Dataset, name: str, steps: Sequence[Step]) -> tuple[float, float]:
    """For one task: the mean standard deviation of lengths in words within a batch, and
    near-duplicates per 1,000 negatives."""
    left, right = (
        [frozenset(sentence.lower().split()) for sentence in side]
        for side in dataset.train[name].sentences
    )
    spreads, near, count = [], 0, 0
    for step in steps:
        words = [(left[row], right[row]) for row in step.rows]
        spreads.append(np.std([len(one) for one, _ in words]))
        for i, (one, _) in enumerate(words):
            for j, (_, other) in enumerate(words):
                if i != j:
                    near += len(one & other) >= NEAR * len(one | other)
                    count += 1
    return float(np.mean(spreads)), 1000 * near / count


if __name__ == "__main__":
    main()
