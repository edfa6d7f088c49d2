"""The effect of fine-tuning after linear probing on each task, and of interpolating back (WiSE-FT).

    python benchmarks/fine_tuning.py --data-dir DATA --share 0.5

Heads are trained on the frozen encoder once (`lp-ft`). From there each variant fine-tunes on the
first `--share` of an epoch's steps; then its weights are interpolated with those at the end of
probing (WiSE-FT: Wortsman et al. 2022), without more training. Scores are on all dev rows.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from trainable.batches.sampler import plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.evaluation.evaluate import evaluate
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

VARIANTS: dict[str, tuple[str, ...]] = {
    "the recipe": (),
    "no dropout in the encoder": ("model.encoder_dropout=0",),
    "a tenth of the rate": ("optim.lr=5e-6",),
    "no MNR": ("loss.mnr.enabled=false",),
    "lower layers slower": ("optim.layer_decay=0.6",),
    "heads as fast as in the probe": ("optim.head_lr_factor=20",),
    "paraphrase alone": (),
}
WAY = (0.25, 0.5, 0.75)
METRICS = ("overall", "sentiment/accuracy", "paraphrase/accuracy", "similarity/pearson")


def main() -> None:
    """Print a table with one line for each variant and interpolation coefficient."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="share of an epoch's steps")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--settings", nargs="*", default=[], help="more settings for all variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append each line to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| fine-tuned | of the way | overall | sentiment | paraphrase | similarity r |")
    print("|---|---|---|---|---|---|")
    learner, dataset = make_learner(options, ())
    train(learner, options, probe=True)
    start = weights_of(learner)
    show(options, "not at all", 0.0, scores(learner, dataset))
    for variant in options.variants:
        learner, dataset = make_learner(options, VARIANTS[variant])
        learner.model.load_state_dict(start)
        learner.enter(stages_of(learner.config)[1])
        train(learner, options, only="paraphrase" if variant == "paraphrase alone" else None)
        end = weights_of(learner)
        show(options, variant, 1.0, scores(learner, dataset))
        for part in WAY:
            learner.model.load_state_dict(between(start, end, part))
            show(options, variant, part, scores(learner, dataset))


def make_learner(options: argparse.Namespace, settings: tuple[str, ...]) -> tuple[Learner, Dataset]:
    """A learner at the start of its first stage, and its dataset."""
    common = (f"data.dir={options.data_dir}", "data.on_bad_rows=skip", "model.encoder=minilm")
    config = resolve("lp-ft", [*common, *options.settings, *settings], {}).config
    dataset = read_dataset(config)
    seed_globals(config.seed)
    learner = Learner(config, dataset)
    learner.enter(stages_of(config)[0])
    return learner, dataset


def train(
    learner: Learner, options: argparse.Namespace, probe: bool = False, only: str | None = None
) -> None:
    """Run all epochs of probing, or the share of an epoch of fine-tuning; `only`: one task's
    steps."""
    lengths = {name: tokens.lengths for name, tokens in learner.train_tokens.items()}
    stage = learner.stage
    for epoch in range(stage.first_epoch, stage.last_epoch + 1 if probe else stage.first_epoch + 1):
        plan = plan_epoch(lengths, learner.config.batching, learner.config.seed, epoch)
        if not probe:
            plan = plan[: round(options.share * len(plan))]
        plan = [step for step in plan if only in (None, step.task_name)]
        for number, batch in enumerate(learner.batches(plan, epoch)):
            learner.step(batch, epoch, number)


def weights_of(learner: Learner) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def between(start: dict[str, Tensor], end: dict[str, Tensor], part: float) -> dict[str, Tensor]:
    """The linear interpolation `start + part * (end - start)` of weights; integers are `end`'s."""
    return {
        name: torch.lerp(start[name], value, part) if value.is_floating_point() else value
        for name, value in end.items()
    }


def scores(learner: Learner, dataset: Dataset) -> dict[str, float]:
    """Dev metrics by name, without the split."""
    metrics = evaluate(learner.tasks, dataset.dev, learner.dev_outputs()).metrics
    return {name: metrics[f"dev/{name}"] for name in METRICS}


def show(options: argparse.Namespace, variant: str, part: float, found: dict[str, float]) -> None:
    """Print one line, and append it to the file."""
    cells = " | ".join(f"{found[name]:.4f}" for name in METRICS)
    print(f"| {variant} | {part:g} | {cells} |", flush=True)
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps({"variant": variant, "part": part, **found}) + "\n")


if __name__ == "__main__":
    main()
