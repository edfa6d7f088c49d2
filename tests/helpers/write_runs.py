"""Write the runs of a sweep with the mirror; exits with 1 if one could not be written.

python tests/helpers/write_runs.py URI SWEEP NUM_TRIALS NUM_EPOCHS
"""

import sys

from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord, TrialSnapshot
from mlflow_setup.tracking.store import Tracking


def write_runs(uri: str, sweep: str, num_trials: int, num_epochs: int, num_tasks: int = 25) -> bool:
    """Write each trial epoch by epoch. Return whether all could be written."""
    mirror = Mirror(Tracking(uri), sweep)
    mirror.start({}, {})
    done = []
    for trial in range(num_trials):
        record = TrialRecord(f"{trial:04d}", sweep, "b3", {}, {}, 0, "data", None, 1e9)
        epochs: tuple[EpochRecord, ...] = ()
        for number in range(1, num_epochs + 1):
            metrics = {"dev/overall": number / 100}
            metrics |= {f"train/task-{task}/loss": 1 / number for task in range(num_tasks)}
            epochs += (EpochRecord(number, metrics, {}, 1.0, 1e9 + number),)
            last = number == num_epochs
            end = OutcomeRecord(Outcome.FINISHED, "", number, 1e9 + 99) if last else None
            done.append(mirror.try_project(TrialSnapshot(record, epochs, end, {}, "", ())))
    mirror.finish("FINISHED")
    return all(done)


if __name__ == "__main__":
    sys.exit(0 if write_runs(*sys.argv[1:3], *map(int, sys.argv[3:])) else 1)
