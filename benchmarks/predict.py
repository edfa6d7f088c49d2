"""The sentences per second of `predict` and of a plain transformers loop, on the same pairs.

    python benchmarks/predict.py --data-dir DATA --rows 512

The loop is the straightforward one: for each task and each member, `AutoModel` with its default
attention in fp32, on the file's batches in order, padded to the longest sentence, each side
separately; then our heads. Both have the same batch size and predict two tasks (paraphrase,
similarity) with the same members: MiniLM encoders with different noise and untrained heads, since
speed does not depend on training. The outputs are compared. Rounds of the loop and of predict
alternate. Peak memory is that of the process `ensweep predict`, for files of --memory-rows rows and
of ten times as many, in which the same pairs repeat.
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from ensemble.bundle.format import CARD, ENSEMBLE, FACTS, Contents, MemberEntry, Share, TaskEntry
from ensemble.bundle.stored_weights import store_member
from ensemble.inference.ensemble import Ensemble
from ensemble.selection.combine import combine
from mlflow_setup.filesystem.manifest import write_manifest
from trainable.batches.tokenization import load_tokenizer
from trainable.config.recipe import resolve
from trainable.data.readers import read_split
from trainable.model.multitask import build_model, load_member
from trainable.model.weight_files import write_weights

TASKS = ("paraphrase", "similarity")
Sides = tuple[tuple[str, ...], ...]


def main() -> None:
    """Measure, then print a table."""
    given = _parse()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bundle"
        write_bundle(folder, given)
        sides = _pairs(folder, given)
        measure_speed(folder, sides, given)
        if given.memory_rows:
            measure_memory(folder, sides, given.memory_rows, Path(place))


class Loop:
    """Runs one member after another, task by task."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.bundle, self.batch_size = Ensemble.load(folder).bundle, batch_size
        self.members = {}
        for name in self.bundle.contents.members:
            place = self.bundle.encoder_dir(name)
            heads = load_member(self.bundle.weights_dir(name), place, self.bundle.config(name))
            encoder = AutoModel.from_pretrained(place).eval()
            self.members[name] = encoder, AutoTokenizer.from_pretrained(place), heads

    def run(self, sides: Sides) -> dict[str, np.ndarray]:
        """Combined outputs for both tasks."""
        found = {}
        for name, entry in self.bundle.contents.tasks.items():
            raw = [self._outputs(name, share.member, sides) for share in entry.members]
            found[name] = combine(entry.task, raw, [share.weight for share in entry.members])
        return found

    @torch.inference_mode()
    def _outputs(self, task: str, member: str, sides: Sides) -> np.ndarray:
        encoder, tokenizer, heads = self.members[member]
        pieces = []
        for start in range(0, len(sides[0]), self.batch_size):
            embeddings = []
            for side in sides:
                inputs = tokenizer(
                    list(side[start : start + self.batch_size]),
                    padding=True,
                    truncation=True,
                    max_length=heads.max_length,
                    return_tensors="pt",
                )
                embeddings.append(_pooled(encoder(**inputs), inputs, heads.pooling))
            sizes = [len(e) for e in embeddings]
            pieces.append(heads.answer(task, torch.cat(embeddings), sizes).outputs.numpy())
        return np.concatenate(pieces)


def _pooled(found: Any, inputs: Any, pooling: str) -> torch.Tensor:
    if pooling == "pooler":
        return found.pooler_output
    if pooling == "cls":
        return found.last_hidden_state[:, 0]
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (found.last_hidden_state * mask).sum(1) / mask.sum(1)


class Ours:
    """`Ensemble` for both tasks at once."""

    def __init__(self, folder: Path, batch_size: int, precision: str) -> None:
        self.ensemble = Ensemble.load(folder, batch_size, precision)

    def run(self, sides: Sides) -> dict[str, np.ndarray]:
        """Combined outputs for both tasks."""
        return self.ensemble.outputs_of_tasks(dict.fromkeys(TASKS, sides))


def measure_speed(folder: Path, sides: Sides, given: argparse.Namespace) -> None:
    """Time each way in every round, and compare their outputs."""
    ways: dict[str, Loop | Ours] = {"loop fp32": Loop(folder, given.batch_size)}
    ways |= {f"predict {p}": Ours(folder, given.batch_size, p) for p in given.precisions}
    outputs = {name: way.run(sides) for name, way in ways.items()}  # a warm-up as well
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way.run(sides)
            seconds[name].append(time.perf_counter() - started)
    base, truth = seconds["loop fp32"], outputs["loop fp32"]
    num_sentences = len(sides) * len(sides[0])
    num_distinct = len({text for side in sides for text in side})
    print(f"{num_sentences} sentences, {num_distinct} distinct; {given.members} members, ", end="")
    print(f"batches of {given.batch_size}, {given.rounds} rounds, {given.threads} thread(s)")
    print(f"{'way':<14} {'sentences/s':>12} {'times faster':>13} {'(min-max)':>14} {'apart':>9}")
    for name, values in seconds.items():
        ratios = [b / value for b, value in zip(base, values, strict=True)]
        apart = max(float(np.abs(outputs[name][task] - truth[task]).max()) for task in TASKS)
        if name == "predict fp32" and apart > 1e-5:
            raise SystemExit(f"outputs are {apart} apart")
        print(
            f"{name:<14} {num_sentences / median(values):>12.1f} {median(ratios):>13.2f} "
            f"{f'({min(ratios):.2f}-{max(ratios):.2f})':>14} {apart:>9.1e}"
        )


def measure_memory(folder: Path, sides: Sides, num_rows: int, place: Path) -> None:
    """Peak resident memory of `ensweep predict` on files of `num_rows` and of ten times as many."""
    for rows in (num_rows, 10 * num_rows):
        source = place / "pairs.csv"
        with source.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("sentence1", "sentence2"))
            writer.writerows(itertools.islice(itertools.cycle(zip(*sides, strict=True)), rows))
        words = [sys.executable, "-m", "ensweep", "predict", str(folder), str(source)]
        words += [word for task in TASKS for word in ("--task", task)]
        process = subprocess.Popen([*words, "--output", str(place / "labels.csv")])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("predict failed")
        megabytes = source.stat().st_size / 1e6
        print(f"{rows} rows, {megabytes:.1f} MB: peak {usage.ru_maxrss / 1024:.0f} MiB")


def write_bundle(folder: Path, given: argparse.Namespace) -> None:
    """Write a bundle whose members differ in every weight; both tasks use all of them."""
    settings = [
        f"data.dir={given.data_dir}",
        f"model.encoder={given.encoder}",
        f"model.pooling={given.pooling}",
    ]
    config = resolve("baseline", settings, {}).config
    names = [f"member-{number}" for number in range(given.members)]
    encoder, weights = folder.parent / "encoder", folder.parent / "weights"
    stored = {}
    for number, name in enumerate(names):
        torch.manual_seed(number)
        model = build_model(config)
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        model.encoder.config.save_pretrained(encoder)
        load_tokenizer(given.encoder).save_pretrained(encoder)
        weights.mkdir(exist_ok=True)
        write_weights(model.state_dict(), weights)
        stored[name] = store_member(name, weights, encoder, folder)
    shares = tuple(Share(member=name, weight=1 / len(names)) for name in names)
    records = config.task_records()
    contents = Contents(
        schema_version=2,
        tasks={name: TaskEntry(task=records[name], members=shares, scores={}) for name in TASKS},
        members={
            name: MemberEntry(
                run_id=name,
                sweep=None,
                trial=name,
                epoch=1,
                encoder=stored[name],
                config=config.flat(),
            )
            for name in names
        },
    )
    (folder / ENSEMBLE).write_text(contents.to_json())
    (folder / CARD).write_text("Fresh heads on noise: for timing alone.\n")
    write_manifest(folder, FACTS)


def _pairs(folder: Path, given: argparse.Namespace) -> Sides:
    task = Ensemble.load(folder).tasks["paraphrase"]
    examples, _ = read_split("paraphrase", task, "dev", given.data_dir)
    return tuple(tuple(side[: given.rows]) for side in examples.sentences)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--memory-rows",
        type=int,
        default=8192,
        help="rows of the smaller file; 0: do not measure memory",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
