"""Record learning curves of real trials, for `benchmarks/search_replay.py` to replay searches on.

    python benchmarks/record_curves.py --data-dir DATA

Trains the first trials of `benchmarks/replay.yaml`, then configurations drawn uniformly from its
space, then some that TPE suggests after these, so that the best region is covered too. Each trial
runs all epochs, with the usual training and evaluation, but keeps no weights. The first line of the
file describes how it was made; every other line is a trial. Run again, it adds the missing trials.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlflow_setup.schema import OVERALL
from search.algorithms.optuna_searcher import OptunaSearcher
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from trainable.batches.sampler import plan_epoch
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.data.dataset import read_dataset
from trainable.evaluation.evaluate import evaluate
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stage_at, total_epochs
from trainable.tune.keys import BEST_VALUE, EPOCH, NUM_EPOCHS

HERE = Path(__file__).parent
SWEEP, CURVES = HERE / "replay.yaml", HERE / "data" / "curves.jsonl"


def main() -> None:
    """Train the trials that the file lacks, and print a line for each on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--train-fraction", type=float, default=0.1)
    parser.add_argument("--even", type=int, default=240, help="uniformly drawn trials")
    parser.add_argument(
        "--searched", type=int, default=60, help="trials suggested by TPE after them"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=CURVES)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = [f"data.dir={given.data_dir}", "data.on_bad_rows=skip"]
    sweep = read_sweep(str(SWEEP), [*data, f"data.train_fraction={given.train_fraction}"], {})
    num_even = len(sweep.first_trials) + given.even
    sweep = with_search(sweep, num_even + given.searched, num_even)
    recorded = _recorded(given.output, _header(sweep))
    searcher = OptunaSearcher(sweep)
    with given.output.open("a", encoding="utf-8") as file:
        for number in range(sweep.search.num_samples):
            trial = searcher.suggest(str(number))
            assert isinstance(trial, dict)
            curve = recorded.get(trial["trial"])
            if curve is None:
                curve = _line(trial)
                print(json.dumps(curve), file=file, flush=True)
            told = {EPOCH: 1, NUM_EPOCHS: 1, BEST_VALUE: max(curve[OVERALL], default=math.nan)}
            searcher.on_trial_complete(str(number), told)


def with_search(sweep: SweepConfig, num_samples: int, num_startup_trials: int) -> SweepConfig:
    """The sweep with other numbers of trials and of random start-up trials."""
    update = {"num_samples": num_samples, "num_startup_trials": num_startup_trials}
    return sweep.model_copy(update={"search": sweep.search.model_copy(update=update)})


def _line(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Train a suggested trial, and return its line for the file."""
    started = time.perf_counter()
    curve = record(from_flat(trial["settings"]))
    best, seconds = max(curve[OVERALL], default=math.nan), time.perf_counter() - started
    print(f"{trial['trial']}: {best:.4f} in {seconds:.1f} s", file=sys.stderr)
    params = {key: trial["settings"][key] for key in trial["searched"]}
    return {"trial": trial["trial"], "params": params, **curve}


def record(config: Config) -> dict[str, Any]:
    """Train a trial. Return its dev metrics by epoch, until it diverges, and its seconds per
    epoch."""
    dataset = read_dataset(config)
    seed_globals(config.seed)
    learner = Learner(config, dataset)
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    seconds: list[float] = []
    metrics: dict[str, list[float]] = {OVERALL: []}
    learner.enter(stage_at(config, 1))
    for epoch in range(1, total_epochs(config) + 1):
        if stage_at(config, epoch) != learner.stage:
            learner.enter(stage_at(config, epoch))
        started = time.perf_counter()
        progress = learner.stage.progress(epoch)
        plan = plan_epoch(lengths, config.batching, config.seed, epoch, progress)
        batches = enumerate(learner.batches(plan, epoch))
        loss = sum(float(learner.step(batch, epoch, number)) for number, batch in batches)
        learner.end_epoch()
        evaluation = evaluate(dataset.tasks, dataset.dev, learner.dev_outputs())
        if not (math.isfinite(loss) and evaluation.is_finite):
            break
        seconds.append(time.perf_counter() - started)
        for name, value in evaluation.metrics.items():
            if not name.endswith("/loss"):
                metrics.setdefault(name, []).append(round(value, 5))
    return {"epoch_seconds": round(statistics.median(seconds or [0.0]), 3), **metrics}


def _header(sweep: SweepConfig) -> dict[str, Any]:
    dataset = read_dataset(from_flat(sweep.base().settings))
    config = {key: value for key, value in sweep.config.items() if key != "data.dir"}
    return {
        "schema_version": 1,
        "made_by": "python benchmarks/record_curves.py",
        "config": config,
        "even": sweep.search.num_startup_trials - len(sweep.first_trials),
        "data_fingerprint": dataset.fingerprint,
        "train_rows": {name: len(examples) for name, examples in dataset.train.items()},
        "dev_rows": {name: len(examples) for name, examples in dataset.dev.items()},
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def _recorded(path: Path, header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The trials in the file, which is created if missing; an incomplete last line is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")] or [json.dumps(header) + "\n"]
    if json.loads(whole[0]) != header:
        raise SystemExit(f"{path} was made with other settings, data or versions: name another")
    path.write_text("".join(whole), encoding="utf-8")
    return {trial["trial"]: trial for trial in map(json.loads, whole[1:])}


if __name__ == "__main__":
    main()
