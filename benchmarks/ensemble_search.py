"""Compare two objectives for TPE: a trial's own score, and its contribution to the ensemble.

    python benchmarks/ensemble_search.py --data-dir DATA --output TRIALS --seeds 0 10

Each search is the sweep of `ensemble_search.yaml`: 32 trials that train heads on the frozen encoder
for two epochs. One half of dev gives the objective values for TPE and selects the ensemble; the
other half gives the held-out score. With `overall` the objective is the trial's own score. With
`ensemble` it is the score of the current ensemble with one of its members replaced by the trial,
computed again before each suggestion (Levesque, Gagne and Sabourin 2016). Both have the same first
eight trials and the same random seeds. Trials in TRIALS are not trained again.
"""

import argparse
import hashlib
import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from held_out import choose_and_judge
from numpy.typing import NDArray

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.choice.result import Prefer
from ensemble.selection.combine import Averaged, Transform
from ensemble.selection.greedy import greedy
from ensemble.selection.scorers import Objective, make_scorer
from ensemble.statistics.dev_splits import NUM_HALVES
from search.algorithms.tpe import TPE
from search.config.load import read_sweep
from search.config.space import distribution, suggest
from search.config.sweep_config import SweepConfig
from trainable.batches.sampler import plan_epoch
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS
from trainable.data.dataset import Dataset, read_dataset
from trainable.evaluation.metrics import overall, task_metric
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

SWEEP = Path(__file__).parent / "ensemble_search.yaml"
NUM_PLACES = 8
"""Members of the ensemble that `ensemble` optimises; they are replaced in turn."""
ARMS = ("overall", "ensemble")

Outputs = dict[str, NDArray[np.float32]]
"""Task -> raw outputs for its dev rows."""
Params = dict[str, Any]


def main() -> None:
    """Print one line for each seed and search, then the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the trained trials")
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(0, 10), help="first seed, and the one after the last"
    )
    parser.add_argument("--train-fraction", type=float, default=0.3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = [f"data.dir={options.data_dir}", "data.on_bad_rows=skip"]
    sweep = read_sweep(str(SWEEP), [*data, f"data.train_fraction={options.train_fraction}"], {})
    dataset = read_dataset(from_flat(sweep.base().settings))
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in range(*options.seeds):
        for arm in ARMS:
            found[arm].append(search(sweep, dataset, options.output, arm, seed))
            print(json.dumps({"seed": seed, "search": arm, **found[arm][-1]}), flush=True)
    for name in found["overall"][0]:
        gains = [b[name] - a[name] for a, b in zip(*(found[arm] for arm in ARMS), strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        means = [f"{arm} {statistics.mean(f[name] for f in found[arm]):.4f}" for arm in ARMS]
        gain = f"{statistics.mean(gains):+.4f}, standard error {error:.4f}"
        print(f"{name}: {', '.join(means)}; difference {gain}")


def search(
    sweep: SweepConfig, dataset: Dataset, folder: Path, arm: str, seed: int
) -> dict[str, float]:
    """Run a search of 32 trials. Return the held-out scores of its best trial and its ensemble."""
    chooses = halves(dataset, seed)
    trials: list[tuple[Params, Outputs]] = []
    for number in range(sweep.search.num_samples):
        values = objective_values(dataset, chooses, [outputs for _, outputs in trials], arm, number)
        params = ask(sweep, [params for params, _ in trials], values, seed)
        trials.append((params, outputs_of(sweep, dataset, folder, params)))
    everything = [outputs for _, outputs in trials]
    best = int(np.argmax(objective_values(dataset, chooses, everything, "overall", 0)))
    return held_out_scores(dataset, chooses, everything, best)


def halves(dataset: Dataset, seed: int) -> dict[str, NDArray[np.bool_]]:
    """Task -> [N] whether a dev row is in the half that gives objective values and selects."""
    found = {}
    for name, examples in dataset.dev.items():
        chosen = np.zeros(len(examples), np.bool_)
        order = np.random.default_rng(seed).permutation(len(examples))
        chosen[order[: len(examples) // 2]] = True
        found[name] = chosen
    return found


def ask(sweep: SweepConfig, past: list[Params], values: list[float], seed: int) -> Params:
    """The next trial's settings, suggested by a new study with all current objective values."""
    number = len(past)
    again = random.Random(f"{seed} {number}").randrange(2**31)
    study = optuna.create_study(
        direction="maximize", sampler=TPE(again, sweep.search.num_startup_trials)
    )
    for params, value in zip(past, values, strict=True):
        distributions = {key: distribution(sweep.space[key]) for key in params}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=value)
        )
    return suggest(sweep.space, study.ask(), sweep.base().settings)


def objective_values(
    dataset: Dataset,
    chooses: dict[str, NDArray[np.bool_]],
    trials: list[Outputs],
    arm: str,
    number: int,
) -> list[float]:
    """The objective value of each trial [M]: its overall score, or that of the ensemble with it."""
    if not trials:
        return []
    scores = {}
    for name, examples in dataset.dev.items():
        task, rows = PAPER_TASKS[name], chooses[name]
        labels = np.array(examples.labels, np.float64)[rows]
        raw = np.stack([outputs[name][rows] for outputs in trials]).astype(np.float64)
        if arm == "overall":
            scores[name] = np.array([task_metric(task, one, labels)[0] for one in raw])
            continue
        fitted = [Transform.fit(task, Averaged.STANDARDISED, one, labels) for one in raw]
        made = np.stack([fit.apply(task, one) for fit, one in zip(fitted, raw, strict=True)])
        order, averaged = range(len(trials)), Averaged.STANDARDISED
        chosen = greedy(task, made, labels, order, NUM_PLACES, averaged=averaged)
        places = members_of(np.array(chosen.weights))
        kept = np.delete(places, number % len(places))
        scorer = make_scorer(task, made, labels, Objective.METRIC, averaged)
        for member in kept.tolist():
            scorer.add(member)
        scores[name] = scorer.scores()
    return [
        overall({name: float(scores[name][m]) for name in scores}, PAPER_TASKS)
        for m in range(len(trials))
    ]


def members_of(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """The trial of each ensemble member, from weights [M] that are multiples of 1 / members."""
    sizes = (weights * size for size in range(1, NUM_PLACES + 1))
    counts = next(counts for counts in sizes if np.allclose(counts, counts.round()))
    return np.repeat(np.arange(len(weights)), counts.round().astype(np.int64))


def outputs_of(sweep: SweepConfig, dataset: Dataset, folder: Path, params: Params) -> Outputs:
    """A trial's outputs on dev after its last epoch, from the folder, or by training it."""
    settings = {**sweep.base().settings, **params}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    path = folder / f"{key[:20]}.npz"
    if not path.exists():
        config = from_flat(settings)
        seed_globals(config.seed)
        learner = Learner(config, dataset)
        stage = stages_of(config)[0]
        learner.enter(stage)
        lengths = {name: tokens.lengths for name, tokens in learner.train_tokens.items()}
        for epoch in range(1, stage.num_epochs + 1):
            plan = plan_epoch(lengths, config.batching, config.seed, epoch)
            for number, batch in enumerate(learner.batches(plan, epoch)):
                learner.step(batch, epoch, number)
        np.savez(path.with_suffix(".tmp.npz"), **learner.dev_outputs())
        path.with_suffix(".tmp.npz").rename(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def held_out_scores(
    dataset: Dataset, chooses: dict[str, NDArray[np.bool_]], trials: list[Outputs], best: int
) -> dict[str, float]:
    """The held-out overall scores of the best trial and of the selective ensemble."""
    tasks, judge, single = {}, {}, {}
    for name, examples in dataset.dev.items():
        task, rows = PAPER_TASKS[name], chooses[name]
        labels = np.array(examples.labels, np.float64)
        outputs = np.stack([trial[name] for trial in trials])
        tasks[name] = TaskPool(
            task=task,
            data_fingerprint="dev",
            ids=tuple(f"{row:06d}" for row in np.flatnonzero(rows)),
            labels=labels[rows],
            candidates=tuple(
                Candidate(f"{m:03d}", f"{m:03d}", "dev", 1, "/none", 1, "frozen")
                for m in range(len(trials))
            ),
            outputs=outputs[:, rows],
            choosable=np.ones((1 + NUM_HALVES, len(trials)), np.bool_),
            listed=np.ones(len(trials), np.bool_),
        )
        judge[name] = outputs[:, ~rows].astype(np.float64), labels[~rows]
        single[name] = task_metric(task, judge[name][0][best], judge[name][1])[0]
    pool = Pool(tasks, tasks["sentiment"].candidates, ())
    rows = choose_and_judge(pool, judge, Prefer.SCORE)
    selective = {name: held_out for name, (_, held_out, _) in rows.items()}
    return {
        "best trial": overall(single, PAPER_TASKS),
        "selective ensemble": overall(selective, PAPER_TASKS),
    }


if __name__ == "__main__":
    main()
