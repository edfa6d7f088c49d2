"""The CPU time of commands that read MLflow runs, each in its own process.

    python benchmarks/commands.py --runs 20
    python benchmarks/commands.py --runs 20 --other ../older ensemble leaderboard

A simulated sweep is logged to an SQLite file: each run has eight epochs of random predictions, as
many rows as the course's dev files, and the weights of one MiniLM. With `--other`, another checkout
of this project is timed alternately, and the ratio is given. Seconds are user and system CPU time
of all threads, which other processes hardly affect.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from choice import ROWS

from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import (
    OVERALL,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
    metric_name,
)
from mlflow_setup.tracking.store import resolve_tracking
from search.config.load import read_sweep
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.config.tasks import PAPER_TASKS
from trainable.evaluation.metrics import overall, task_metric
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

WEIGHTS = "model.safetensors"
SWEEP, NUM_EPOCHS, BEGUN = "timed", 8, 1_790_000_000.0
COMMANDS: Mapping[str, Sequence[str]] = {
    "help": ["--help"],
    "config": ["config", "show", "b3", "optim.lr=2e-5"],
    "leaderboard": ["leaderboard", SWEEP],
    "ensemble": ["ensemble", SWEEP],
    "ensemble again": ["ensemble", SWEEP],
    "export": ["export", SWEEP, "--output", "bundle"],
    "report": ["report", SWEEP],
}
"""In this order: an ensemble is chosen, chosen again when it is logged already, then exported."""
OF_SWEEP = ("leaderboard", "ensemble", "export", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", help=f"some of {', '.join(COMMANDS)}; default: all")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="Repetitions; the fastest counts.")
    parser.add_argument("--other", type=Path, help="Another checkout of this project.")
    parser.add_argument(
        "--made", type=Path, help="Folder of the sweep, written if missing and kept."
    )
    given = parser.parse_args()
    places = {"here": Path(__file__).parents[1]}
    if given.other is not None:
        places["other"] = given.other.resolve()
    with tempfile.TemporaryDirectory() as folder:
        made = given.made or Path(folder, "made")
        if not made.exists():
            make_sweep(made, given.runs)
        seconds = {where: dict.fromkeys(given.commands or COMMANDS, np.inf) for where in places}
        for number in range(given.repeats):
            for where, place in places.items():
                storage = Path(folder, f"{where}-{number}")
                shutil.copytree(made, storage, copy_function=os.link)
                for file in storage.glob("mlflow.db*"):  # written to
                    content = file.read_bytes()
                    file.unlink()
                    file.write_bytes(content)
                for name in seconds[where]:
                    took = _run(COMMANDS[name], place, storage)
                    seconds[where][name] = min(seconds[where][name], took)
    print(f"{given.runs} runs of {NUM_EPOCHS} epochs; CPU seconds")
    for name, here in seconds["here"].items():
        line = f"{name:16}{here:7.2f} s"
        if given.other is not None:
            other = seconds["other"][name]
            line += f"{other:9.2f} s other, {other / here:5.2f} times"
        print(line)


def _run(command: Sequence[str], place: Path, storage: Path) -> float:
    """User and system CPU seconds of the command and its child processes."""
    words = list(command)
    if words[0] in OF_SWEEP:
        words += ["--storage", str(storage)]
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ensweep.cli.app import main"
    environment = os.environ | {"ENSWEEP_CACHE": str(storage / "cache"), "COLUMNS": "100"}
    before = sum(os.times()[2:4])
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; main()", str(place), *words],
        capture_output=True, text=True, cwd=storage, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{place}: {' '.join(words)}: {done.stderr}")
    return sum(os.times()[2:4]) - before


def make_sweep(storage: Path, num_runs: int) -> None:
    """Write simulated trials of similar accuracy. Each makes different errors, which its epochs
    share."""
    storage.mkdir(parents=True)
    folder, draw = SweepFolder(storage, SWEEP), np.random.default_rng(0)
    sweep = read_sweep("selective", ["data.dir=/nowhere", f"search.num_samples={num_runs}"])
    folder.create(sweep)
    config = resolve(
        "b3", ["data.dir=/nowhere", "model.encoder=minilm", f"train.num_epochs={NUM_EPOCHS}"]
    ).config
    model, truth = _save_model(storage / "model", config), _draw_truth(draw)
    mirror = Mirror(resolve_tracking(storage), SWEEP)
    mirror.start({"recipe": "b3"}, {})
    for number in range(num_runs):
        trial = folder.trial(f"{number + 1:04d}")
        lr = float(10 ** draw.uniform(-5, -3))
        record = TrialRecord(
            *(trial.path.name, SWEEP, "b3", {**config.flat(), "optim.lr": lr}, {}, 0, "data"),
            *(None, BEGUN + 600 * number),
            searched=("optim.lr",),
        )
        notes = {"num_parameters": model[0] + number, "num_encoder_parameters": model[1]}
        trial.create(replace(record, notes=notes))
        shutil.copytree(storage / "model" / "encoder", trial.encoder_dir, copy_function=os.link)
        _write_epochs(trial, truth, draw, record.start_time)
        _keep_weights(trial, folder.trial("0001"), storage / "model" / "weights" / WEIGHTS)
        mirror.project(trial.snapshot())
    mirror.finish("FINISHED")


def _save_model(folder: Path, config: Config) -> tuple[int, int]:
    """Save an untrained model with a pretrained encoder. Return its number of parameters, and the
    encoder's."""
    from safetensors.torch import save_file

    from trainable.batches.tokenization import load_tokenizer
    from trainable.data.remote import locate
    from trainable.model.encoder import load_pretrained
    from trainable.model.multitask import MultitaskBert

    encoder = load_pretrained(config.model.encoder, None, 0.1, config.model.pooling)
    model = MultitaskBert(encoder, config)
    for name in ("encoder", "weights"):
        (folder / name).mkdir(parents=True)
    save_file(
        {n: v.contiguous() for n, v in model.state_dict().items()}, folder / "weights" / WEIGHTS
    )
    encoder.config.save_pretrained(folder / "encoder")  # type: ignore[union-attr,operator]
    load_tokenizer(Path(locate(config.model.encoder))).save_pretrained(folder / "encoder")
    return model.num_parameters, model.num_encoder_parameters


def _draw_truth(draw: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Task -> labels [N], the outputs of a perfect model, and noise that all models share."""
    truth = {}
    for name, num_rows in ROWS.items():
        task = PAPER_TASKS[name]
        if name == "similarity":
            labels = draw.uniform(0, 5, num_rows)
            signal = labels
        else:
            labels = draw.integers(0, task.num_classes, num_rows).astype(np.float64)
            signal = np.eye(5)[labels.astype(int)] if name == "sentiment" else 2 * labels - 1
        truth[name] = labels, signal, draw.standard_normal(signal.shape)
    return truth


def _write_epochs(
    trial: TrialFolder,
    truth: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    draw: np.random.Generator,
    begun: float,
) -> None:
    own = {name: draw.standard_normal(signal.shape) for name, (_, signal, _) in truth.items()}
    tasks = {name: PAPER_TASKS[name] for name in truth}
    for epoch in range(1, NUM_EPOCHS + 1):
        scores, predictions = {}, []
        for name, (labels, signal, shared) in truth.items():
            noise = 0.5 * shared + 0.5 * own[name] + 0.3 * draw.standard_normal(signal.shape)
            outputs = np.asarray(signal + 1.3 * noise, np.float32)
            ids = tuple(f"{name}-{row:05d}" for row in range(len(labels)))
            facts = (ids, outputs, labels, name, "tokenizer")
            predictions.append(Predictions(name, tasks[name].kind, "dev", *facts))
            scores[name] = task_metric(tasks[name], outputs, labels)[0]
        metrics = {metric_name("dev", n, str(tasks[n].metric)): s for n, s in scores.items()}
        metrics[OVERALL] = overall(scores, tasks)
        trial.write_epoch(EpochRecord(epoch, metrics, {}, 60.0, begun + 60 * epoch))
        trial.write_predictions(epoch, predictions)
    ended = OutcomeRecord(Outcome.FINISHED, f"ran {NUM_EPOCHS} epochs", NUM_EPOCHS, begun + 500)
    trial.write_outcome(ended)


def _keep_weights(trial: TrialFolder, first: TrialFolder, weights: Path) -> None:
    """Link the same weight file for all epochs; `ensemble` reads it to measure prediction time."""
    for epoch in range(1, NUM_EPOCHS + 1):
        if trial.path == first.path:
            trial.keep_weights(epoch, lambda path: os.link(weights, path / WEIGHTS))
        else:
            target = trial.weights_dir(epoch)
            shutil.copytree(first.weights_dir(epoch), target, copy_function=os.link)


if __name__ == "__main__":
    main()
