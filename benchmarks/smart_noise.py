"""Measure why SMART has little effect: how far does the noise from its ascent step move outputs?

    python benchmarks/smart_noise.py --data-dir DATA --weights b3.safetensors --steps 200

A B3 model is trained for some steps, unless its weights exist. Then, for each batch, the
adversarial noise is compared with random noise of the same size: a random sign for each element on
the surface of an L-infinity ball, or a random direction on that of an L2 ball. Shown for each
place, norm, radius and number of steps: how far the outputs move under the initial noise, random
noise and adversarial noise; how often adversarial noise moves them further; and the norm of the
penalty's gradient relative to that of the loss without it.

Then the same step with different dropout masks: shared by all passes, as in our code, or drawn anew
for each pass, as in the authors' code: in the search for the noise, in the comparison, or in both.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainable.batches.collate import Batch
from trainable.batches.sampler import Step, plan_epoch
from trainable.config.loss_sections import Smart
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.losses.smart import divergence, project, worst_noise
from trainable.model.heads import HeadOutput
from trainable.runtime.rng_state import dropout_state, replayed, seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

SETTINGS = [
    Smart(place=place, norm=norm, radius=radius, step_size=step, num_steps=steps)  # type: ignore[arg-type]
    for place, norm, radius, step, steps in (
        ("input", "linf", 1e-3, 1e-4, 1),
        ("input", "linf", 1e-3, 1e-3, 1),  # the default
        ("input", "linf", 1e-3, 1e-3, 3),
        ("input", "linf", 1e-2, 1e-2, 1),
        ("input", "linf", 1e-1, 1e-1, 1),
        ("input", "l2", 1e-3, 1e-3, 1),
        ("input", "l2", 1.0, 1.0, 1),
        ("pooled", "linf", 1e-3, 1e-3, 1),
        ("pooled", "linf", 1e-2, 1e-2, 1),
        ("pooled", "linf", 1e-1, 1e-1, 1),
        ("pooled", "l2", 1.0, 1.0, 1),
    )
]
MASKS = {
    "shared in both": (True, True),
    "own in the search, shared in the comparison": (False, True),
    "own in both": (False, False),
}
"""Description -> whether the search shares dropout masks, whether the comparison does."""

Answers = Callable[[Tensor | None], Tensor]


def main() -> None:
    """Measure, then print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument(
        "--weights", type=Path, required=True, help="file of weights, written if missing"
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="training steps before the measurement"
    )
    parser.add_argument("--tasks", nargs="*", help="tasks; default: all three; none: only train")
    parser.add_argument("--batches", type=int, default=8, help="batches of each task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if not given.weights.exists():
        save_file(trained(given).model.state_dict(), given.weights)
    learner = learner_of(given, "loss.simcse.enabled=false")  # no second views to compute
    learner.model.load_state_dict(load_file(given.weights))
    tasks = list(learner.tasks) if given.tasks is None else given.tasks
    results = [
        {"task": name, **described(settings), **measure(learner, name, given.batches, settings)}
        for name in tasks
        for settings in SETTINGS
    ]
    masks = {
        way: {name: wins(learner, name, 4 * given.batches, *shared) for name in tasks}
        for way, shared in MASKS.items()
    }
    if given.json:
        print(json.dumps({"schema_version": 1, "results": results, "masks": masks}))
        return
    print(f"{given.steps} training steps, {given.batches} batches per task")
    print(f"RMS of embedding elements: {typical_sizes(learner)}")
    for row in results:
        size = f"radius {row['radius']:g}, step {row['step_size']:g} x {row['num_steps']}"
        print(
            f"{row['task']:10} {row['place']:6} {row['norm']:4} {size:28} moved by start "
            f"{row['start']:.1e}, random {row['random']:.1e}, found {row['found']:.1e} "
            f"({row['found'] / row['random']:6.1f} times random, won {row['won']:4.0%}); "
            f"gradient {row['gradient']:.1e} of the loss's"
        )
    for way, of_tasks in masks.items():
        shown = "  ".join(
            f"{name} {each['won']:.0%} (moved by other masks alone {each['masks']:.1e})"
            for name, each in of_tasks.items()
        )
        print(f"masks {way}: the step won {shown}")


def described(settings: Smart) -> dict[str, object]:
    """The settings that vary, as text."""
    return settings.model_dump(include={"place", "norm", "radius", "step_size", "num_steps"})


def trained(given: argparse.Namespace) -> Learner:
    """A B3 learner after `--steps` training steps."""
    learner = learner_of(given)
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    plan = plan_epoch(lengths, learner.config.batching, learner.config.seed, 1)
    for number, batch in enumerate(learner.batches(plan[: given.steps], 1)):
        learner.step(batch, 1, number)
    return learner


def learner_of(given: argparse.Namespace, *overrides: str) -> Learner:
    """A B3 learner before its first step."""
    settings = [
        *(f"data.dir={given.data_dir}", "data.on_bad_rows=skip", f"model.encoder={given.encoder}"),
        *("model.pooling=mean", "pretrain.enabled=false", "optim.lr=1e-4", "train.precision=fp32"),
    ]
    config = resolve("b3", [*settings, *overrides], {}).config
    seed_globals(config.seed)
    learner = Learner(config, read_dataset(config))
    learner.enter(stages_of(config)[0])
    return learner


def batches_of(learner: Learner, name: str, count: int) -> Iterable[Batch]:
    """Batches of a task, the same in each measurement."""
    draw = np.random.default_rng(0)
    size, total = learner.config.batching.batch_size, learner.train_tokens[name].num_examples
    plan = [Step(name, draw.choice(total, size, replace=False)) for _ in range(count)]
    return learner.batches(plan, epoch=1)


def start_of(learner: Learner, batch: Batch, settings: Smart) -> Tensor:
    """The initial noise of the ascent: [S, L, H], or [S, H] at the pooled embedding."""
    shape = [len(batch.sentences), int(learner.model.encoder.config.hidden_size)]  # type: ignore[union-attr,arg-type]
    if settings.place == "input":
        assert batch.packed is not None
        shape[1:1] = [int(batch.packed.lengths[-1])]
    return settings.init_std * torch.randn(shape, device=learner.device)


def random_like(start: Tensor, settings: Smart) -> Tensor:
    """Random noise on the surface of the ball."""
    draw = torch.randn_like(start)
    if settings.norm == "linf":
        return settings.radius * draw.sign()
    return project(1e6 * settings.radius * draw, "l2", settings.radius)


def measure(learner: Learner, name: str, count: int, settings: Smart) -> dict[str, float]:
    """Means over batches: how far outputs move, and shares of batches. All passes share dropout
    masks."""
    kind, sums = learner.tasks[name].kind, np.zeros(5)
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    torch.manual_seed(0)
    for batch in batches_of(learner, name, count):
        output: HeadOutput = learner.model(batch)
        answers, clean = with_masks_of(learner, batch, output), output.outputs
        start = start_of(learner, batch, settings)
        found = worst_noise(kind, answers, clean.detach(), start, settings)
        penalty = divergence(kind, answers(found), clean)
        with torch.no_grad():
            moved = [
                float(divergence(kind, answers(noise), clean))
                for noise in (start, random_like(start, settings))
            ]
        loss = learner.objective.without_smart(batch, output)
        lengths = [
            torch.stack([g.norm() for g in gradients if g is not None]).norm()
            for gradients in (
                torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True),
                torch.autograd.grad(loss, parameters, allow_unused=True),
            )
        ]
        reached = float(penalty.detach())
        sums += [*moved, reached, reached > moved[1], float(lengths[0] / lengths[1])]
    names = ("start", "random", "found", "won", "gradient")
    return dict(zip(names, (sums / count).tolist(), strict=True))


def wins(
    learner: Learner, name: str, count: int, search_shares: bool, comparison_shares: bool
) -> dict[str, float]:
    """How often the default's ascent step beats random noise, and how far new masks alone move the
    outputs."""
    settings, kind = learner.config.loss.smart, learner.tasks[name].kind
    won = moved = 0.0
    torch.manual_seed(0)
    for batch in batches_of(learner, name, count):
        output: HeadOutput = learner.model(batch)
        shared = with_masks_of(learner, batch, output)

        def own(noise: Tensor | None) -> Tensor:
            answered: HeadOutput = learner.model(batch, noise)  # noqa: B023 - called within the turn
            return answered.outputs

        search, compare = (shared if s else own for s in (search_shares, comparison_shares))
        start = start_of(learner, batch, settings)
        found = worst_noise(kind, search, search(None).detach(), start, settings)
        with torch.no_grad():
            clean = compare(None)
            random = compare(random_like(start, settings))
            won += bool(divergence(kind, compare(found), clean) > divergence(kind, random, clean))
            moved += float(divergence(kind, own(None), shared(None)))
    return {"won": won / count, "masks": moved / count}


def with_masks_of(learner: Learner, batch: Batch, output: HeadOutput) -> Answers:
    """A function from noise to outputs, with the dropout masks of an earlier pass."""
    state = output.rng_state
    assert state is not None, "the model was not in training"

    def answers(noise: Tensor | None) -> Tensor:
        with replayed(state, learner.device):
            answered: HeadOutput = learner.model(batch, noise)
        return answered.outputs

    return answers


@torch.no_grad()
def typical_sizes(learner: Learner) -> str:
    """The root mean square of the elements of token embeddings and of sentence embeddings."""
    (batch,) = batches_of(learner, next(iter(learner.tasks)), 1)
    assert batch.packed is not None
    with replayed(dropout_state(learner.device), learner.device):
        tokens = learner.model.encoder.embeddings(  # type: ignore[union-attr,operator]
            input_ids=batch.packed.input_ids[None], position_ids=batch.packed.positions[None]
        )
        pooled = learner.model.embed(batch.packed)
    return ", ".join(
        f"{float(each.square().mean().sqrt()):.2f} {place}"
        for place, each in (("at the input", tokens), ("pooled", pooled))
    )


if __name__ == "__main__":
    main()
