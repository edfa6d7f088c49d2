"""The time to choose an ensemble from the predictions of simulated runs.

    python benchmarks/choice.py --runs 20
    python benchmarks/choice.py --runs 200 --other ../older

Each run of eight epochs has the usual candidates: its best epoch overall and for each task. There
are as many rows as in the course's dev files. With `--other`, another checkout of this project is
timed alternately with this one, and the ratio is given, so that the machine's noise affects both.
Seconds are CPU time of all threads, which other processes hardly affect.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.choice.cross_fitting import choose
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS, Output

ROWS = {"sentiment": 1101, "paraphrase": 4000, "similarity": 863}
EPOCHS = 4
"""The candidates of a run: its best epoch overall, and for each of three tasks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="Repetitions; the fastest counts.")
    parser.add_argument("--other", type=Path, help="Another checkout of this project.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.other is None:
        seconds = {"here": min(_time(given.runs) for _ in range(given.repeats))}
    else:
        places = {"here": Path(__file__).parents[1], "other": given.other.resolve()}
        seconds = dict.fromkeys(places, float("inf"))
        for _ in range(given.repeats):
            for where, place in places.items():
                seconds[where] = min(seconds[where], _in(place, given.runs))
    if given.json:
        print(json.dumps({"schema_version": 1, "runs": given.runs, "seconds": seconds}))
        return
    print(f"{given.runs} runs: " + ", ".join(f"{s:.2f} s {where}" for where, s in seconds.items()))
    if given.other is not None:
        print(f"ratio {seconds['other'] / seconds['here']:.1f}")


def _in(place: Path, num_runs: int) -> float:
    """The seconds of the same measurement in another process, with the code of a checkout."""
    script = "import sys; sys.path[:0] = sys.argv[1:3]; import choice; print(choice._time({}))"
    command = [
        sys.executable,
        "-c",
        script.format(num_runs),
        str(place),
        str(Path(__file__).parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _time(num_runs: int) -> float:
    pool = make_pool(num_runs)
    started = time.process_time()
    choose(pool)
    return time.process_time() - started


def make_pool(num_runs: int) -> Pool:
    """Simulated runs of similar accuracy. Each run makes different errors, which its epochs mostly
    share."""
    rng = np.random.default_rng(0)
    candidates = tuple(
        Candidate(f"run{r:03d}", f"{r:04d}", "s", epoch, "/none", 22_000_000 + r)
        for r in range(num_runs)
        for epoch in range(1, 1 + EPOCHS)
    )
    order = tuple(sorted(candidates, key=lambda c: c.order))
    tasks = {}
    for name, num_rows in ROWS.items():
        task = PAPER_TASKS[name]
        if task.kind.output is Output.SCORE:
            labels = rng.uniform(0, 5, num_rows)
            signal, noise = labels, 1.5
        else:
            labels = rng.integers(0, task.num_classes, num_rows).astype(np.float64)
            signal = np.eye(5)[labels.astype(int)] if name == "sentiment" else 2 * labels - 1
            noise = 1.2
        shared = noise * rng.standard_normal(signal.shape)
        outputs = {}
        for candidate in candidates:
            if candidate.epoch == 1:
                own = noise * rng.standard_normal(signal.shape)
            epoch = 0.3 * noise * rng.standard_normal(signal.shape)
            outputs[candidate] = (signal + 0.5 * shared + 0.5 * own + epoch).astype(np.float32)
        tasks[name] = TaskPool(
            task=task,
            data_fingerprint="made up",
            ids=tuple(f"{row:06d}" for row in range(num_rows)),
            labels=labels,
            candidates=order,
            outputs=np.stack([outputs[c] for c in order]),
            choosable=np.ones((1 + NUM_HALVES, len(order)), np.bool_),
            listed=np.ones(len(order), np.bool_),
        )
    return Pool(tasks, order, ())


if __name__ == "__main__":
    main()
