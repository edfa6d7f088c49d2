"""Compare our training with that of other libraries, alternately in one run.

    python -m venv peers && peers/bin/pip install -e . sentence-transformers accelerate datasets
    peers/bin/python benchmarks/peers.py --data-dir DATA

Both have the same encoder (MiniLM), data, batch size and learning rate, float32, and otherwise
their own best settings:

- `pairs`: similarity by cosine and entailment by multiple negatives ranking, on two data sets in
  turn, by sentence-transformers' trainer (`CosineSimilarityLoss`, `MultipleNegativesRankingLoss`)
- `sentiment`: classification, by transformers' `Trainer`, with batches of similar length
- `paraphrase`: a siamese model with a linear layer over [u, v, |u-v|], by the same

Measured are examples per second, from the end of the first step to that of the last in a stretch of
steps, and the seconds of training until a score on dev is reached, without evaluation. All use the
fused AdamW. With `--threads=1` seconds are CPU time, which other processes do not affect.
"""

import argparse
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from peer_trainers import CLOCK, LR, MAX_LENGTH, SCORED, pairs_peer, transformers_peer

from trainable.batches.sampler import plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.evaluation.evaluate import evaluate
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

MATCHES = {
    "pairs": ("data.tasks=[similarity, nli]", "model.pooling=mean", "loss.mnr.enabled=true"),
    "sentiment": ("data.tasks=[sentiment]", "model.pooling=pooler"),
    "paraphrase": ("data.tasks=[paraphrase]", "model.pooling=mean"),
}


class Ours:
    """The training steps of a trial."""

    def __init__(self, match: str, dataset: Dataset, config: Any) -> None:
        seed_globals(0)
        self.learner, self.task, self.epoch = Learner(config, dataset), SCORED[match], 0
        self.learner.enter(stages_of(config)[0])
        self.plan: Iterator[Any] = iter(())

    def train(self, num_steps: int) -> tuple[float, int]:
        """Train some steps. Return seconds since the end of the first step, and examples."""
        learner, steps = self.learner, []
        while len(steps) < num_steps:
            found = next(self.plan, None)
            if found is None:
                self.epoch += 1
                lengths = {name: t.lengths for name, t in learner.train_tokens.items()}
                self.plan = iter(plan_epoch(lengths, learner.config.batching, 0, self.epoch))
            else:
                steps.append(found)
        for number, batch in enumerate(learner.batches(steps, self.epoch)):
            learner.step(batch, 1, number)
            if number == 0:
                started = CLOCK()
        return CLOCK() - started, sum(len(step.rows) for step in steps[1:])

    def score(self, dataset: Dataset) -> float:
        found = evaluate(self.learner.tasks, dataset.dev, self.learner.dev_outputs()).metrics
        return next(value for key, value in found.items() if _is_score(key, self.task))


def _is_score(key: str, task: str) -> bool:
    return key.startswith(f"dev/{task}/") and not key.endswith("/loss")


def compare(match: str, options: argparse.Namespace) -> None:
    """Compare one pair of trainers, and print a line of the table."""
    settings = [
        *(f"data.dir={options.data_dir}", "data.on_bad_rows=skip", "model.encoder=minilm"),
        *(f"optim.lr={LR}", "optim.lr_decay=0", "optim.weight_decay=0", "batching.batch_size=16"),
        *(f"model.max_length={MAX_LENGTH}", "batching.strategy=even", "train.device=cpu"),
        *("train.precision=fp32", "train.eval_batch_size=64", "model.head_dropout=0"),
    ]
    config = resolve("baseline", [*settings, *MATCHES[match]], {}).config
    dataset = read_dataset(config)
    peer = pairs_peer(dataset) if match == "pairs" else transformers_peer(match, dataset)
    sides: dict[str, Any] = {"ours": Ours(match, dataset, config), "peer": peer}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    seconds = dict.fromkeys(sides, 0.0)
    reached: dict[str, float | None] = dict.fromkeys(sides)
    best = dict.fromkeys(sides, 0.0)
    for number in range(options.rounds):
        for name in list(sides) if number % 2 else list(sides)[::-1]:
            took, num_examples = sides[name].train(options.steps)
            rates[name].append(num_examples / took)
            seconds[name] += took
            best[name] = max(best[name], sides[name].score(dataset))
            if reached[name] is None and best[name] >= options.target[match]:
                reached[name] = seconds[name]
    ratios = [a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)]
    cells = [
        match,
        *(f"{median(rates[name]):.1f}" for name in sides),
        f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        *(
            f"{at:.1f} s" if (at := reached[name]) is not None else f"not ({best[name]:.3f})"
            for name in sides
        ),
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print a table with one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--matches", nargs="*", default=list(MATCHES), choices=list(MATCHES))
    parser.add_argument("--steps", type=int, default=40, help="steps in a stretch")
    parser.add_argument("--rounds", type=int, default=5, help="stretches of each trainer")
    parser.add_argument("--threads", type=int)
    targets = (0.8, 0.4, 0.7)
    for match, target in zip(MATCHES, targets, strict=True):
        parser.add_argument(
            f"--{match}-target", type=float, default=target, help="score to reach on dev"
        )
    options = parser.parse_args()
    options.target = {match: getattr(options, f"{match}_target") for match in MATCHES}
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batch 16, MiniLM\n")
    print("| | ours, examples/s | peer | ratio (range) | ours to the score | peer |")
    print("|---|---|---|---|---|---|")
    for match in options.matches:
        compare(match, options)


if __name__ == "__main__":
    main()
