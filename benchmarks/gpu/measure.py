"""Measure the training step and the evaluation on a GPU; each result is saved at once.

    python benchmarks/gpu/measure.py --encoder ENCODER --data-dir DATA --output results.json

MiniLM and an encoder of BERT-base's shape with random weights, under the b3 recipe: the textbook's
loop, ours in float32, tf32, bf16, compiled, and with CUDA graphs, at three batch sizes; a profile
of a step; one, two and four trials on one GPU. Ends before `--seconds`; the most important
measurements come first. With `--device cpu` it is a small rehearsal of the same measurements.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import machine, matrix_rate, wait, write_random_encoder
from train_step import COMPILED, HALVES, TEXTBOOK, WAY, Ours, make_loop

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import first_line
from trainable.batches.collate import Batch
from trainable.batches.sampler import plan_epoch
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset

PLAIN, BF16, GRAPHS = WAY[-1], "ours bf16", "ours bf16, CUDA graphs"
LOOPS = (PLAIN, *(name for name in HALVES if name != "ours fp16"), COMPILED, GRAPHS)
_WARM_UP = 3


class Results:
    """The results so far, saved after each measurement."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.deadline = path, time.monotonic() + seconds
        self.facts: dict[str, Any] = {"cells": [], "profiles": [], "trials": [], "left_out": []}

    def add(self, part: str, about: dict[str, Any], seconds: float, run: Callable[[], Any]) -> None:
        """Measure, or record why not: an error, or less than `seconds` left."""
        if time.monotonic() + seconds > self.deadline:
            self.facts["left_out"].append({**about, "part": part, "why": "no time was left"})
        else:
            started = time.monotonic()
            try:
                found = run()
                self.facts[part].append({**about, **found, "took": time.monotonic() - started})
            except Exception as error:  # the next measurement may work
                why = f"{type(error).__name__}: {first_line(error)}"
                self.facts["left_out"].append({**about, "part": part, "why": why})
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        write_atomic(self.path, json.dumps(self.facts, indent=1))
        print(json.dumps(about), f"{self.deadline - time.monotonic():.0f} s left", flush=True)


class Steps:
    """A loop's training steps on prepared batches, with the tasks in the order of an epoch."""

    def __init__(self, name: str, config: Config, dataset: Dataset, num_steps: int) -> None:
        loop = make_loop(BF16 if name == GRAPHS else name, config, dataset)
        assert isinstance(loop, Ours)
        self.learner = loop.learner
        tokens = self.learner.train_tokens
        lengths = {task: encoded.lengths for task, encoded in tokens.items()}
        plan = plan_epoch(lengths, config.batching, config.seed, 1)[:num_steps]
        self.batches = list(self.learner.batches(plan, 1))
        self.num_examples = sum(len(step.rows) for step in plan)
        self.num_tokens = sum(int(batch.packed.lengths.sum()) for batch in self.batches)
        self.step: Callable[[Batch, int], Any] = lambda batch, i: self.learner.step(batch, 1, i)
        if name == GRAPHS:
            self.step = self._graphed()

    def seconds(self) -> float:
        """The seconds for all batches, after a warm-up."""
        for i, batch in enumerate(self.batches[:_WARM_UP]):
            self.step(batch, i)
        wait()
        started = time.perf_counter()
        for i, batch in enumerate(self.batches):
            self.step(batch, i)
        wait()
        return time.perf_counter() - started

    def _graphed(self) -> Callable[[Batch, int], Any]:
        """Record one batch's forward and backward pass as a CUDA graph, and replay it for every
        batch: an upper bound, since in training each shape would need a graph of its own."""
        learner, batch = self.learner, self.batches[0]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                learner.loss(batch).backward()
        torch.cuda.current_stream().wait_stream(stream)
        learner.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            learner.loss(batch).backward()
        self.num_examples = len(self.batches) * batch.sizes[0]
        self.num_tokens = len(self.batches) * int(batch.packed.lengths.sum())

        def step(_: Batch, number: int) -> None:
            graph.replay()
            learner.optimizer.step()

        return step


def measure_cell(
    name: str, config: Config, dataset: Dataset, num_steps: int, rate: float
) -> dict[str, Any]:
    """Measure training and evaluation with one loop."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    if name == TEXTBOOK:
        return _textbook(config, dataset, num_steps)
    steps = Steps(name, config, dataset, num_steps)
    seconds = steps.seconds()
    first = time.perf_counter() - started - seconds
    encoder = steps.learner.model.encoder
    words = encoder.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in encoder.parameters() if p.ndim == 2) - words
    found = {
        "examples_per_second": steps.num_examples / seconds,
        "steps_per_second": len(steps.batches) / seconds,
        "of_bf16_rate": 6 * weights * steps.num_tokens / seconds / rate,
        "before_first_s": first,
        "peak_mib": _peak_mib(),
    }
    if name != GRAPHS:
        steps.learner.dev_outputs()
        wait()
        started = time.perf_counter()
        steps.learner.dev_outputs()
        wait()
        num_rows = sum(map(len, dataset.dev.values()))
        found["dev_rows_per_second"] = num_rows / (time.perf_counter() - started)
    return found


def _textbook(config: Config, dataset: Dataset, num_steps: int) -> dict[str, Any]:
    loop = make_loop(TEXTBOOK, config, dataset)
    share = max(1, num_steps * config.batching.batch_size // len(dataset.train))
    rows = {name: range(min(share, len(examples))) for name, examples in dataset.train.items()}
    few = {name: list(of)[: 2 * config.batching.batch_size] for name, of in rows.items()}
    loop.train({name: torch.tensor(of).numpy() for name, of in few.items()}, 0)
    wait()
    started = time.perf_counter()
    loop.train({name: torch.tensor(list(of)).numpy() for name, of in rows.items()}, 1)
    wait()
    seconds = time.perf_counter() - started
    return {
        "examples_per_second": sum(map(len, rows.values())) / seconds,
        "peak_mib": _peak_mib(),
    }


def profile_step(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The operations with the most device time in three steps."""
    steps = Steps(BF16, config, dataset, 3)
    steps.seconds()
    activities = [torch.profiler.ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        key = "self_device_time_total"
    with torch.profiler.profile(activities=activities) as profile:
        for i, batch in enumerate(steps.batches[:3]):
            steps.step(batch, i)
        wait()
    events = [(str(e.key), float(getattr(e, key)), int(e.count)) for e in profile.key_averages()]
    total = sum(time_ for _, time_, _ in events)
    most = sorted(events, key=lambda event: -event[1])[:15]
    rows = [{"name": n[:80], "share": t / total, "calls": c / 3} for n, t, c in most]
    return {"by": key, "ms_per_step": total / 3000, "operations": rows}


def run_trials(options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Run `count` trials at once, one process each. Return their total examples per second."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one-trial"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        lines = [trial.communicate(timeout=120)[0].splitlines() for trial in running]
    finally:
        for trial in running:
            trial.kill()
    rates = [json.loads(line[-1])["examples_per_second"] for line in lines if line]
    if len(rates) < count:
        raise RuntimeError(f"{count - len(rates)} of {count} trials failed")
    return {"count": count, "examples_per_second": sum(rates), "each": rates}


def one_trial(config: Config, dataset: Dataset, seconds: float) -> None:
    """Train for a fixed time, without counting the beginning, when other processes still load."""
    steps = Steps(BF16, config, dataset, 2 if config.train.device == "cpu" else 60)
    begin = time.monotonic() + seconds / 2
    while time.monotonic() < begin:
        steps.seconds()
    rates = []
    while time.monotonic() < begin + seconds / 2:
        rates.append(steps.num_examples / steps.seconds())
    print(json.dumps({"examples_per_second": sum(rates) / len(rates)}))


def main() -> None:
    """Measure until everything is done or the time is up."""
    options = _parse()
    is_rehearsal = options.device == "cpu"
    num_steps, sizes = (2, (2,)) if is_rehearsal else (40, (16, 64, 256))
    config, dataset = load(options, options.encoder, sizes[0])
    if options.one_trial:
        one_trial(config, dataset, 4 if is_rehearsal else 16)
        return
    results = Results(options.output, options.seconds)
    results.facts["machine"] = {
        "device": machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "is_rehearsal": is_rehearsal,
        "rates": {p: matrix_rate(p) for p in ("fp32", "tf32", "bf16")[: 1 if is_rehearsal else 3]},
    }
    rate = next(reversed(results.facts["machine"]["rates"].values()))
    base = write_random_encoder(
        options.output.parent / "bert-base", options.encoder, 2 if is_rehearsal else 12
    )
    encoders = {"MiniLM": options.encoder, "BERT-base": str(base)}
    cells = [(e, size, loop) for size in sizes for e in encoders for loop in LOOPS]
    textbook = [(e, sizes[0], TEXTBOOK) for e in encoders]
    first = [cell for cell in cells if cell[1] == sizes[0] and cell[2] != COMPILED]
    rest = [cell for cell in cells if cell not in first]  # compilation takes a minute

    def add(cell: tuple[str, int, str]) -> None:
        encoder, size, loop = cell
        about = {"encoder": encoder, "batch_size": size, "loop": loop}
        setting, data = load(options, encoders[encoder], size)
        results.add("cells", about, 8, lambda: measure_cell(loop, setting, data, num_steps, rate))

    for cell in (*textbook, *first):
        add(cell)
    for encoder, path in encoders.items():
        about = {"encoder": encoder, "batch_size": sizes[-1]}
        setting, data = load(options, path, sizes[-1])
        results.add("profiles", about, 10, lambda s=setting, d=data: profile_step(s, d))
    for count in (1, 2) if is_rehearsal else (1, 2, 4):
        about = {"encoder": "MiniLM", "count": count}
        results.add("trials", about, 40, lambda c=count: run_trials(options, c))
    for cell in rest:
        add(cell)


def load(options: argparse.Namespace, encoder: str, batch_size: int) -> tuple[Config, Dataset]:
    """The b3 recipe without additional pre-training, and the data."""
    settings = [
        *(f"data.dir={options.data_dir}", "data.on_bad_rows=skip", f"model.encoder={encoder}"),
        *("optim.lr=1e-5", "pretrain.enabled=false", f"batching.batch_size={batch_size}"),
        *("train.eval_batch_size=256", f"train.device={options.device}"),
    ]
    if options.device == "cpu":
        settings += ["data.max_train_examples=64", "train.eval_batch_size=32"]
    config = resolve("b3", settings, {}).config
    dataset = read_dataset(config)
    if options.device == "cpu":
        few = {name: examples.take(range(8)) for name, examples in dataset.dev.items()}
        dataset = replace(dataset, dev=few)
    return config, dataset


def _peak_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return 0.0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--encoder", required=True, help="MiniLM's folder")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--seconds", type=float, default=400, help="time limit")
    parser.add_argument("--one-trial", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
