"""The training step against a textbook loop, on the same examples, side by side in one run.

    python benchmarks/train_step.py --data-dir DATA --examples 1280

The textbook loop tokenises each batch, pads it to its longest sentence, calls an eager encoder
once for each side and view, in fp32, and updates with AdamW without foreach or fusion. Both loops
go through the same examples of the three tasks under the b3 recipe (MNR and SimCSE on similarity),
each forming its own batches of 16. Chunks of the loops alternate, so that a change of the
machine's speed hits all; ratios are of seconds for the same examples, the median over the chunks.
"""

import argparse
import time
from collections.abc import Mapping
from statistics import median

import numpy as np
import torch
from torch import nn
from transformers import AutoModel

from trainable.batch import Batch
from trainable.batching import Step, plan_epoch
from trainable.config import Config
from trainable.dataset import Dataset, read_dataset
from trainable.dropout import Dropout
from trainable.encoder import locate
from trainable.learner import Learner
from trainable.model import MultitaskBert
from trainable.objective import objective
from trainable.reading import Examples
from trainable.resolve import resolve
from trainable.rng_state import seed_globals
from trainable.seeding import generator
from trainable.stages import stages_of
from trainable.tokens import load_tokenizer

BATCH_SIZE = 16
Rows = Mapping[str, np.ndarray]


class Textbook:
    """What one writes first: readable, correct, and slow."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        torch.manual_seed(config.seed)
        dropout = config.model.encoder_dropout
        encoder = AutoModel.from_pretrained(
            locate(config.model.encoder),
            attn_implementation="eager",
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.config, self.dataset, self.num_tokens = config, dataset, 0
        self.tasks = config.task_records()
        self.tokenizer = load_tokenizer(config.model.encoder)
        self.model = MultitaskBert(encoder, config)
        for module in self.model.modules():
            if type(module) is Dropout:
                module.__class__ = nn.Dropout
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optim.lr, foreach=False, fused=False
        )
        self.model.train()

    def run(self, chunk: Rows, number: int) -> None:
        """Train on the chunk's rows in random batches."""
        random = generator(self.config.seed, "textbook", number)
        batches = []
        for name, rows in chunk.items():
            rows = random.permutation(rows)
            starts = range(0, len(rows), BATCH_SIZE)
            batches += [(name, rows[i : i + BATCH_SIZE]) for i in starts]
        for i in random.permutation(len(batches)):
            self._step(*batches[i], random)

    def _step(self, name: str, rows: np.ndarray, random: np.random.Generator) -> None:
        examples: Examples = self.dataset.train[name]
        sides = [[side[row] for row in rows] for side in examples.sentences]
        view_of = None
        if name in self.config.loss.simcse.tasks:
            draw = random.integers(len(sides), size=len(rows))
            sides.append([sides[side][i] for i, side in enumerate(draw)])
            view_of = torch.from_numpy(draw)
        batches = [
            self.tokenizer(side, padding=True, truncation=True, return_tensors="pt")
            for side in sides
        ]
        e = tuple(self.model.embed(b["input_ids"], b["attention_mask"]) for b in batches)
        s = tuple(self.model.shared(side) for side in e)
        output = self.model.heads[name](e, s)
        labels = torch.tensor(examples.labels[rows], dtype=torch.float32)
        batch = Batch(name, rows, (len(rows),) * len(sides), labels, None, view_of, 0)
        loss = objective(self.tasks[name], output, batch, self.config)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.num_tokens += sum(int(b["attention_mask"].sum()) for b in batches)


class Ours:
    """The trial's own steps, planned over the chunk's rows as over an epoch."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        seed_globals(config.seed)
        self.learner = Learner(config, dataset)
        self.learner.enter(stages_of(config)[0])

    def run(self, chunk: Rows, number: int) -> None:
        learner, config = self.learner, self.learner.config
        lengths = {name: learner.train_tokens[name].lengths[rows] for name, rows in chunk.items()}
        for i, step in enumerate(plan_epoch(lengths, config.batching, config.seed, number)):
            rows = chunk[step.task_name][step.rows]
            learner.step(Step(step.task_name, rows), 1, i)


def main() -> None:
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = [
        f"data.dir={options.data_dir}",
        "data.on_bad_rows=skip",
        f"model.encoder={options.encoder}",
        f"model.pooling={options.pooling}",
        "optim.lr=1e-4",
        "pretrain.enabled=false",
        f"batching.batch_size={BATCH_SIZE}",
    ]
    config = resolve("b3", settings, {}).config
    dataset = read_dataset(config)
    textbook = Textbook(config, dataset)
    loops: dict[str, Textbook | Ours] = {"textbook fp32": textbook}
    for precision in ("fp32", "bf16"):
        train = config.train.model_copy(update={"precision": precision})
        loops[f"ensweep {precision}"] = Ours(config.model_copy(update={"train": train}), dataset)
    seconds = _time(loops, _chunks(dataset, options.examples, options.chunks))
    _print(seconds, textbook, options)


def _time(loops: Mapping[str, Textbook | Ours], chunks: list[Rows]) -> dict[str, list[float]]:
    """Seconds of each loop for each chunk; the first chunk is a warm-up and not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number, chunk in enumerate(chunks):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop.run(chunk, number)
            seconds[name].append(time.perf_counter() - started)
        if number == 0:
            textbook = loops["textbook fp32"]
            assert isinstance(textbook, Textbook)
            textbook.num_tokens = 0
    return {name: values[1:] for name, values in seconds.items()}


def _chunks(dataset: Dataset, num_examples: int, num_chunks: int) -> list[Rows]:
    """Disjoint random parts of the training set, the tasks in their natural proportions."""
    total = sum(len(examples) for examples in dataset.train.values())
    orders = {
        name: generator(0, "benchmark", name).permutation(len(examples))
        for name, examples in dataset.train.items()
    }
    sizes = {name: round(num_examples * len(order) / total) for name, order in orders.items()}
    return [
        {name: order[i * sizes[name] : (i + 1) * sizes[name]] for name, order in orders.items()}
        for i in range(num_chunks + 1)
    ]


def _print(
    seconds: Mapping[str, list[float]], textbook: Textbook, options: argparse.Namespace
) -> None:
    encoder = textbook.model.encoder
    words = encoder.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in encoder.parameters() if p.ndim == 2) - words
    flops = 6 * weights * textbook.num_tokens  # forward and backward, real tokens only
    base = seconds["textbook fp32"]
    print(f"{options.chunks} chunks of {options.examples} examples, batch {BATCH_SIZE}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'loop':<16} {'s a chunk':>10} {'times faster':>13} {'(min-max)':>14} {'of peak':>8}")
    for name, values in seconds.items():
        ratios = [b / value for b, value in zip(base, values, strict=True)]
        peak = _matrix_rate(torch.bfloat16 if name.endswith("bf16") else torch.float32)
        share = flops / sum(values) / peak
        spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"{name:<16} {median(values):>10.2f} {median(ratios):>13.2f} {spread:>14} {share:>8.1%}"
        )
    print("of peak: matrix-product flops of the encoder on real tokens / measured 1024^3 product")


def _matrix_rate(dtype: torch.dtype) -> float:
    """Flops a second of a 1024 x 1024 x 1024 product on this machine: the best of 20."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--examples", type=int, default=320, help="in a chunk")
    parser.add_argument("--chunks", type=int, default=7)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
