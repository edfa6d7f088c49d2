"""Does SMART's ascent step find noise that moves the answers further than random noise does?

    python benchmarks/smart_noise.py --data-dir DATA --steps 200 --batches 100

A B3 model is trained for a while; then, batch by batch, the noise of one ascent step is set against
a random sign for each element, both at the border of the L-infinity ball. The passes that are
compared share their dropout masks, or each draws masks of its own, as the author's code does:
there in the search for the noise, in the comparison, or in both.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainable.batches.sampler import plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.losses.smart import divergence, worst_noise
from trainable.runtime.rng_state import dropout_state, replayed, seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

WAYS = {
    "shared in both": (True, True),
    "own in the search, shared in the comparison": (False, True),
    "own in both": (False, False),
}
"""Masks -> whether the search shares them, whether the comparison does."""


def main() -> None:
    """Measure, then print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--steps", type=int, default=200, help="of training before it is measured")
    parser.add_argument("--batches", type=int, default=100, help="of each task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    learner = trained(given)
    results = {
        name: {way: wins(learner, name, given.batches, *shared) for way, shared in WAYS.items()}
        for name in learner.tasks
    }
    if given.json:
        print(json.dumps({"schema_version": 1, "results": results}))
        return
    print(f"{given.steps} steps of training, {given.batches} batches a task; times the step won")
    for way in WAYS:
        shown = "  ".join(f"{name} {results[name][way]:.0%}" for name in results)
        print(f"dropout masks {way}: {shown}")


def trained(given: argparse.Namespace) -> Learner:
    """B3 after so many steps."""
    settings = [
        *(f"data.dir={given.data_dir}", "data.on_bad_rows=skip", f"model.encoder={given.encoder}"),
        *("model.pooling=mean", "pretrain.enabled=false", "optim.lr=1e-4", "train.precision=fp32"),
    ]
    config = resolve("b3", settings, {}).config
    seed_globals(config.seed)
    learner = Learner(config, read_dataset(config))
    learner.enter(stages_of(config)[0])
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    plan = plan_epoch(lengths, config.batching, config.seed, 1)
    for number, step in enumerate(plan[: given.steps]):
        learner.step(step, 1, number)
    return learner


def wins(
    learner: Learner, name: str, num_batches: int, search_shares: bool, comparison_shares: bool
) -> float:
    """Share of a task's batches in which the ascent step's noise moves the answers further."""
    model, encoded = learner.model, learner.train_tokens[name]
    settings, kind = learner.config.loss.smart, learner.tasks[name].kind
    device, draw = learner.device, np.random.default_rng(0)
    won = 0
    for _ in range(num_batches):
        sentences = encoded.sentences(draw.choice(encoded.num_examples, 16, replace=False))
        ids, attended = (part.to(device) for part in encoded.tokens.pad(sentences))
        sizes = [16] * encoded.num_sides

        def outputs(noise: Tensor | None) -> Tensor:
            e = model.embed(ids, attended, noise)  # noqa: B023 - called within the turn
            return model.answer(name, e, sizes).outputs  # noqa: B023

        masks = dropout_state(device)

        def shared(noise: Tensor | None) -> Tensor:
            with replayed(masks, device):  # noqa: B023
                return outputs(noise)

        search, compare = (shared if s else outputs for s in (search_shares, comparison_shares))
        start = settings.init_std * torch.randn((*ids.shape, model.encoder.config.hidden_size))
        clean = search(None).detach()
        found = worst_noise(kind, search, clean, start.to(device), settings)
        random = settings.radius * torch.randn_like(found).sign()
        with torch.no_grad():
            clean = compare(None)
            won += bool(
                divergence(kind, compare(found), clean) > divergence(kind, compare(random), clean)
            )
    return won / num_batches


if __name__ == "__main__":
    main()
