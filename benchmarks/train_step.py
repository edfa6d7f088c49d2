"""Compare our training step and evaluation with a textbook implementation, on the same examples.

    python benchmarks/train_step.py --data-dir DATA

The textbook loop is in `benchmarks/textbook.py`. The loops between it and ours add one optimisation
of ours after another, and the last ones use lower precision. All train on the same examples with
the b3 recipe (MNR and SimCSE on similarity), in batches of their own. Chunks of the loops
alternate, so that a change of the machine's speed affects all; a ratio is that of the seconds for
the same examples, the median over chunks. Evaluation is on the same dev rows. Peak memory and the
first step are measured in a separate process for each loop.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from machine import machine, matrix_rate, peak_bytes, wait, write_random_encoder
from textbook import Rows, Textbook

from trainable.batches.sampler import plan_epoch
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.runtime.precision import choose_device
from trainable.runtime.rng_state import seed_globals
from trainable.runtime.seeding import generator
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

TEXTBOOK = "textbook fp32"
WAY = (
    "+ tokenised once, one call a step",
    "+ batches of like length",
    "+ fused AdamW",
    "+ no padding, fused attention: ours fp32",
)
"""The steps from the textbook's loop to ours; each includes those before it."""
HALVES = {"ours bf16": "bf16", "ours fp16": "fp16", "ours tf32": "tf32"}
COMPILED = "ours bf16, compiled"
MIXED = "mixed"


class Ours:
    """The training steps of a trial, on the chunk's rows as if they were an epoch.

    Args:
        num_added: how many steps of `WAY` it includes.
    """

    def __init__(self, config: Config, dataset: Dataset, num_added: int = len(WAY)) -> None:
        seed_globals(config.seed)
        self.learner, self.num_added = Learner(config, dataset), num_added
        model = self.learner.model
        if num_added < 4:
            model.encoder.set_attn_implementation("eager")
        self.learner.enter(stages_of(config)[0])
        if num_added < 3:
            for group in self.learner.optimizer.param_groups:
                group.update(foreach=False, fused=False)

    def train(self, chunk: Rows, number: int) -> None:
        """Train on the chunk's rows."""
        learner, config = self.learner, self.learner.config
        lengths = {name: learner.train_tokens[name].lengths[rows] for name, rows in chunk.items()}
        if self.num_added < 2:
            lengths = {name: np.ones_like(found) for name, found in lengths.items()}
        plan = [
            type(step)(step.task_name, chunk[step.task_name][step.rows])
            for step in plan_epoch(lengths, config.batching, config.seed, number)
        ]
        with self._padding():
            for i, batch in enumerate(learner.batches(plan, 1)):
                learner.step(batch, 1, i)

    def _padding(self) -> AbstractContextManager[object]:
        if self.num_added == len(WAY):
            return nullcontext()
        return patch("trainable.model.encoder.takes_rows", lambda encoder: False)


def make_loop(name: str, config: Config, dataset: Dataset) -> Textbook | Ours:
    """A loop by its name in the table."""
    if name == TEXTBOOK:
        return Textbook(config, dataset, choose_device(config.train.device))
    train = {"precision": HALVES.get(name, "fp32"), "compile": "never"}
    if name == COMPILED:
        train = {"precision": "bf16", "compile": "always"}
    config = config.model_copy(update={"train": config.train.model_copy(update=train)})
    return Ours(config, dataset, 1 + WAY.index(name) if name in WAY else len(WAY))


def time_training(
    loops: Mapping[str, Textbook | Ours], dataset: Dataset, options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Part -> loop -> seconds for each chunk, without the first, which is a warm-up."""
    parts = {MIXED: list(dataset.train), **{name: [name] for name in dataset.train}}
    seconds = {part: {name: [] for name in loops} for part in parts}
    for number, chunk in enumerate(chunks(dataset, options)):
        for part, names in parts.items():
            some = {name: chunk[name] for name in names}
            for name, loop in loops.items():
                wait()
                started = time.perf_counter()
                loop.train(some, number)
                wait()
                if number:
                    seconds[part][name].append(time.perf_counter() - started)
    return seconds


def chunks(dataset: Dataset, options: argparse.Namespace) -> list[Rows]:
    """Disjoint random parts of the training set, each with the tasks in their proportions."""
    total = sum(len(examples) for examples in dataset.train.values())
    orders = {
        name: generator(0, "benchmark", name).permutation(len(examples))
        for name, examples in dataset.train.items()
    }
    sizes = {name: round(options.examples * len(o) / total) for name, o in orders.items()}
    return [
        {name: order[i * sizes[name] : (i + 1) * sizes[name]] for name, order in orders.items()}
        for i in range(options.chunks + 1)
    ]


def time_evaluation(
    loops: Mapping[str, Textbook | Ours], dataset: Dataset, num_rounds: int
) -> dict[str, list[float]]:
    """Loop -> seconds for dev in each round, after a warm-up. Checks that float32 outputs agree."""
    rows = {name: np.arange(len(examples)) for name, examples in dataset.dev.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    textbook = loops[TEXTBOOK]
    assert isinstance(textbook, Textbook)
    weights = textbook.model.state_dict()
    for number in range(num_rounds + 1):
        outputs = {}
        for name, loop in loops.items():
            if isinstance(loop, Ours) and number == 0:
                loop.learner.model.load_state_dict(weights)
            started = time.perf_counter()
            is_textbook = isinstance(loop, Textbook)
            outputs[name] = loop.evaluate(rows) if is_textbook else loop.learner.dev_outputs()
            if number:
                seconds[name].append(time.perf_counter() - started)
    for task, expected in outputs[TEXTBOOK].items():
        apart = float(np.abs(outputs[WAY[-1]][task] - expected).max())
        if apart > 1e-4:
            raise SystemExit(f"{task}: outputs in float32 are {apart} apart")
    return seconds


def run_alone(name: str, config: Config, dataset: Dataset, options: argparse.Namespace) -> None:
    """Print the first step's seconds and the peak memory as JSON, for a process of its own."""
    loop = make_loop(name, config, dataset)
    size = config.batching.batch_size
    first = {"similarity": chunks(dataset, options)[0]["similarity"][:size]}
    started = time.perf_counter()
    loop.train(first, 0)
    wait()
    seconds = time.perf_counter() - started
    loop.train(chunks(dataset, options)[1], 1)
    peak = peak_bytes()
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"first_step_seconds": seconds, "peak_bytes": peak}))


def print_table(
    seconds: Mapping[str, Mapping[str, list[float]]],
    evaluation: Mapping[str, list[float]],
    alone: Mapping[str, Mapping[str, float]],
    flops: float,
    options: argparse.Namespace,
) -> None:
    """Print a row for each loop: speed-up, examples per second, share of the peak FLOP/s."""
    print(f"{options.chunks} chunks of {options.examples} examples, batch {options.batch_size}, ")
    print(f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    parts = list(seconds)
    head = "".join(f"{part:>22}" for part in (*parts, "evaluation"))
    print(f"{'loop':<34}{head}{'of peak':>9}{'first step':>11}{'peak memory':>12}")
    for name in seconds[MIXED]:
        cells = [_cell(seconds[part], name) for part in parts]
        cells.append(_cell(evaluation, name) if evaluation[name] else "")
        half = HALVES.get(name, "bf16" if name == COMPILED else "fp32")
        share = flops / sum(seconds[MIXED][name]) / matrix_rate(half)
        own = alone.get(name)
        costs = (
            f"{own['first_step_seconds']:>9.2f} s{own['peak_bytes'] / 2**20:>8.0f} MiB"
            if own
            else ""
        )
        print(f"{name:<34}{''.join(f'{c:>22}' for c in cells)}{share:>9.1%}{costs}")
    print("a part: times faster than the textbook, median (min-max) over the chunks")
    examples = options.examples * options.chunks
    print(
        f"textbook: {examples / sum(seconds[MIXED][TEXTBOOK]):.1f} examples/s mixed; of peak: ",
        end="",
    )
    print("products of the encoder's weights on real tokens / a measured product of 1024^3")


def _cell(by_loop: Mapping[str, list[float]], name: str) -> str:
    ratios = [b / own for b, own in zip(by_loop[TEXTBOOK], by_loop[name], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _flops(textbook: Textbook) -> float:
    """FLOPs of the matrix products, forward and backward, on the textbook's non-padding tokens."""
    encoder = textbook.model.encoder
    words = encoder.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in encoder.parameters() if p.ndim == 2) - words
    return 6.0 * weights * textbook.num_tokens


def main() -> None:
    """Measure, then print a table."""
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        encoder = options.encoder
        if encoder == "random-bert-base":
            encoder = str(write_random_encoder(Path(place) / "encoder"))
        config = _config(encoder, options)
        dataset = _fewer(read_dataset(config), options.dev_rows)
        if options.alone:
            run_alone(options.alone, config, dataset, options)
            return
        names = [TEXTBOOK, *WAY, *options.rounded]
        loops = {name: make_loop(name, config, dataset) for name in names}
        ends = {name: loop for name, loop in loops.items() if name not in WAY[:-1]}
        evaluation = {name: [] for name in names} | time_evaluation(ends, dataset, options.rounds)
        textbook = loops[TEXTBOOK]
        textbook.num_tokens = 0
        seconds = time_training(loops, dataset, options)
        warm = 1 + options.chunks  # the first chunk counts in the tokens, but not in the seconds
        flops = _flops(textbook) / 2 * options.chunks / warm  # mixed and task by task: twice
        alone = {name: _alone(name, encoder, options) for name in names} if options.memory else {}
        print_table(seconds, evaluation, alone, flops, options)


def _alone(name: str, encoder: str, options: argparse.Namespace) -> dict[str, float]:
    words = [sys.executable, __file__, *sys.argv[1:], "--encoder", encoder, "--alone", name]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _fewer(dataset: Dataset, num_rows: int) -> Dataset:
    """The dataset with a random sample of each task's dev rows."""
    dev = {}
    for name, examples in dataset.dev.items():
        rows = generator(0, "dev", name).permutation(len(examples))[:num_rows]
        dev[name] = examples.take(np.sort(rows))
    return replace(dataset, dev=dev)


def _config(encoder: str, options: argparse.Namespace) -> Config:
    settings = [
        *(f"data.dir={options.data_dir}", "data.on_bad_rows=skip"),
        *(f"model.encoder={encoder}", f"model.pooling={options.pooling}"),
        *("optim.lr=1e-4", "pretrain.enabled=false"),
        f"batching.batch_size={options.batch_size}",
    ]
    return resolve("b3", settings, {}).config


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--encoder", default="minilm", help="an encoder, or random-bert-base")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--examples", type=int, default=320, help="examples in a chunk")
    parser.add_argument("--chunks", type=int, default=5)
    parser.add_argument("--dev-rows", type=int, default=512, help="dev rows of each task")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of evaluation")
    names = (*HALVES, COMPILED)
    more = "loops with lower precision to add"
    parser.add_argument("--rounded", nargs="*", choices=names, default=[], help=more)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
