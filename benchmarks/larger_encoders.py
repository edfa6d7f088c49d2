"""The memory, time and score of gradient checkpointing and LoRA.

    python benchmarks/larger_encoders.py --data-dir DATA

For each variant, in its own process: the bytes of all tensors that a step on a large batch saves
for the backward pass, the bytes of weights, gradients and AdamW's moments, the seconds of a step,
and the overall score on dev after `--epochs` epochs, with the same rows and seeds.
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import mean, median
from typing import Any

import torch

from trainable.batches.collate import Batch
from trainable.batches.sampler import plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.evaluation.evaluate import evaluate
from trainable.runtime.precision import training_bytes
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

AGAIN, LORA = "model.gradient_checkpointing=true", "model.lora.rank={rank}"
VARIANTS = {
    "everything learns": ("optim.lr=1e-4",),
    "checkpointing": ("optim.lr=1e-4", AGAIN),
    "LoRA 8": ("optim.lr=1e-3", LORA.format(rank=8)),
    "LoRA 32": ("optim.lr=1e-3", LORA.format(rank=32)),
    "LoRA 8, checkpointing": ("optim.lr=1e-3", LORA.format(rank=8), AGAIN),
}


def run_one(options: argparse.Namespace) -> dict[str, Any]:
    """Memory and time of a variant's steps, then its scores."""
    learner = _learner(options, options.batch_size, seed=0)
    plan = [step for step in _plan(learner, 1) if step.task_name == "similarity"]
    batches = list(learner.batches(plan[: options.steps], 1))
    kept = kept_bytes(learner, batches[0])
    seconds = []
    for number, batch in enumerate(batches):
        started = time.perf_counter()
        learner.step(batch, 1, number)
        seconds.append(time.perf_counter() - started)
    found = {
        "step_s": median(seconds[1:] or seconds),
        "kept_mib": kept / 2**20,
        "state_mib": training_bytes(learner.model) / 2**20,
        "learning": sum(p.numel() for p in learner.model.parameters() if p.requires_grad),
    }
    scores = [_score(options, seed) for seed in range(options.seeds)]
    return {**found, "overall": scores}


def kept_bytes(learner: Learner, batch: Batch) -> int:
    """The bytes of all tensors that the forward pass saves for the backward pass, without
    weights."""
    weights = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        learner.loss(batch)
    return sum(kept.values())


def _score(options: argparse.Namespace, seed: int) -> float:
    learner = _learner(options, 16, seed)
    best = 0.0
    for epoch in range(1, options.epochs + 1):
        for number, batch in enumerate(learner.batches(_plan(learner, epoch), epoch)):
            learner.step(batch, epoch, number)
        metrics = evaluate(learner.tasks, options.dataset.dev, learner.dev_outputs()).metrics
        best = max(best, metrics["dev/overall"])
    return best


def _learner(options: argparse.Namespace, batch_size: int, seed: int) -> Learner:
    settings = [
        *(f"data.dir={options.data_dir}", "data.on_bad_rows=skip", "model.encoder=minilm"),
        *("model.pooling=mean", "train.precision=fp32", "pretrain.enabled=false"),
        *(f"data.max_train_examples={options.examples}", f"batching.batch_size={batch_size}"),
        *("data.tasks=[sentiment, similarity]", f"train.num_epochs={options.epochs}"),
        *VARIANTS[options.one],
    ]
    config = resolve("b3", settings, {}).config.model_copy(update={"seed": seed})
    options.dataset = read_dataset(config)
    seed_globals(seed)
    learner = Learner(config, options.dataset)
    learner.enter(stages_of(config)[0])
    return learner


def _plan(learner: Learner, epoch: int) -> list[Any]:
    lengths = {name: tokens.lengths for name, tokens in learner.train_tokens.items()}
    return plan_epoch(lengths, learner.config.batching, learner.config.seed, epoch)


def main() -> None:
    """Print a table with one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument(
        "--batch-size", type=int, default=128, help="batch size for measuring memory"
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--examples", type=int, default=256, help="examples of each task")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--one", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, MiniLM\n")
    print("| | learns | weights, gradients, moments | kept for a gradient | a step | overall |")
    print("|---|---|---|---|---|---|")
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", variant]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [
            f"{found['learning'] / 1e6:.2f} M",
            f"{found['state_mib']:,.0f} MiB",
            f"{found['kept_mib']:,.0f} MiB",
            f"{found['step_s']:.2f} s",
            f"{mean(found['overall']):.4f}",
        ]
        print(f"| {variant} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
