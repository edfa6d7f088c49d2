"""The time of an epoch of linear probing, with and without the cache of sentence embeddings.

    python benchmarks/probe.py --data-dir DATA --batch-sizes 16 128

Both run the whole epoch: every training step of every task, then dev. Cached and uncached epochs
alternate; the first cached epoch, which computes the embeddings, is timed separately.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from trainable.batches.sampler import plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of


def main() -> None:
    """Measure, then print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--recipe", default="baseline-lp-ft")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each kind")
    parser.add_argument("--train-fraction", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ENSWEEP_CACHE"] = cache
        for batch_size in given.batch_sizes:
            results.append(measure(given, batch_size))
            print_line(results[-1])
    if given.json:
        print(json.dumps({"schema_version": 1, "results": results}))


def measure(given: argparse.Namespace, batch_size: int) -> dict[str, float]:
    """Median seconds of both kinds of epoch, and of filling the cache."""
    settings = [
        *(f"data.dir={given.data_dir}", "data.on_bad_rows=skip", f"model.encoder={given.encoder}"),
        *("model.pooling=mean", f"batching.batch_size={batch_size}"),
        *(f"data.train_fraction={given.train_fraction}", "pretrain.enabled=false"),
    ]
    learners = {}
    fill = 0.0
    for cache in ("true", "false"):
        config = resolve(given.recipe, [*settings, f"probe.cache={cache}"], {}).config
        dataset = read_dataset(config)
        seed_globals(0)
        learners[cache] = Learner(config, dataset)
        started = time.perf_counter()
        learners[cache].enter(stages_of(config)[0])
        fill += time.perf_counter() - started if cache == "true" else 0.0
    seconds: dict[str, list[float]] = {"true": [], "false": []}
    for number in range(given.rounds):
        for cache, learner in learners.items():
            seconds[cache].append(epoch_seconds(learner, dataset, number + 1))
    cached, uncached = (statistics.median(seconds[cache]) for cache in ("true", "false"))
    return {
        "batch_size": batch_size,
        "fill_seconds": fill,
        "cached_seconds": cached,
        "uncached_seconds": uncached,
        "ratio": uncached / cached,
    }


def epoch_seconds(learner: Learner, dataset: Dataset, epoch: int) -> float:
    """The seconds of a whole epoch: planning, training steps, dev outputs."""
    config = learner.config
    started = time.perf_counter()
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    plan = plan_epoch(lengths, config.batching, config.seed, epoch)
    assert sum(len(step.rows) for step in plan) == sum(map(len, dataset.train.values()))
    for number, batch in enumerate(learner.batches(plan, epoch)):
        learner.step(batch, epoch, number)
    learner.dev_outputs()
    return time.perf_counter() - started


def print_line(result: dict[str, float]) -> None:
    """Print the result for one batch size on stderr."""
    print(
        f"batch {result['batch_size']}: cached {result['cached_seconds']:.2f} s, uncached "
        f"{result['uncached_seconds']:.2f} s an epoch, {result['ratio']:.1f}x; the first cached "
        f"epoch computes embeddings for {result['fill_seconds']:.1f} s more",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
