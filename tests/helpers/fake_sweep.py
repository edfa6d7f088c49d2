"""A sweep whose trials only simulate training, for tests with a real Ray and real processes.

    python tests/helpers/fake_sweep.py run|resume|extend FOLDER [KEY=VALUE ...]

Scores follow from the learning rate, so a sweep's record is the same however often it is
interrupted. Environment variables: SWEEP, its name; STORAGE, a storage URI instead of FOLDER/runs;
SECONDS_AN_EPOCH; KILOBYTES, the size of an epoch's weights and checkpoint; MISDEED, a JSON object:
trial -> fault.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import yaml

from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from search.driver.result import SweepResult
from search.driver.sweep import resume_sweep, run_sweep
from trainable.tune.trainable import Train

NUM_EPOCHS = 4


def make_train(misdeeds: Mapping[str, str] = MappingProxyType({})) -> Train:
    """The training function. It is a closure so that Ray pickles it by value.

    Args:
        misdeeds: trial -> fault, in addition to MISDEED.
    """
    wrongs = dict(misdeeds)

    def train(config, folder, *, identity, report, stop, shared):  # type: ignore[no-untyped-def]
        import errno
        import json
        import os
        import time

        import numpy as np
        import ray
        from safetensors.numpy import save_file

        from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
        from trainable.storage.trial_folder import TrialFolder
        from trainable.tune import actor_memory

        assert int(os.environ["OMP_NUM_THREADS"]) == 1
        misdeed = (wrongs | json.loads(os.environ.get("MISDEED", "{}"))).get(identity.trial, "")
        seconds = float(os.environ.get("SECONDS_AN_EPOCH", "0"))
        num_values = 256 * int(os.environ.get("KILOBYTES", "0"))
        weights = {"weight": np.ones(num_values, np.float32)}
        trial = TrialFolder(folder)
        ended = trial.outcome()
        if ended is not None and ended.outcome.is_terminal:
            return ended
        trial.reopen()
        trial.create(
            TrialRecord(
                identity.trial,
                identity.sweep,
                identity.recipe,
                config.flat(),
                identity.origin,
                config.seed,
                "unknown",
                None,
                time.time(),
                identity.searched,
            )
        )
        done = len(trial.epochs())

        def is_alone() -> bool:
            given = ray.get_runtime_context().get_assigned_resources()
            return bool(given["CPU"] == ray.cluster_resources()["CPU"])

        def end(outcome: Outcome, reason: str) -> OutcomeRecord:
            record = OutcomeRecord(outcome, reason, done, time.time())
            trial.write_outcome(record)
            return record

        while done < config.train.num_epochs:
            until = time.monotonic() + seconds
            while not stop() and time.monotonic() < until:
                time.sleep(0.05)
            if stop():
                return end(Outcome.STOPPED, f"asked to stop in epoch {done + 1}")
            if misdeed == "diverges":
                return end(Outcome.DIVERGED, "the loss of sentiment is nan")
            if misdeed == "leaks":
                actor_memory.MAX_MAIN = -1
            if misdeed == "raises":
                raise RuntimeError("no luck\nat all")
            if misdeed == "dies":
                os._exit(1)
            if misdeed == "never fits" or (misdeed == "fits alone" and not is_alone()):
                raise MemoryError("as if")
            if misdeed == "hangs" and done == 1:
                time.sleep(3600)
            if misdeed == "full" and not (folder.parent.parent / "freed").exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            done += 1
            overall = 1 - config.optim.lr + done / 100
            metrics = {"dev/overall": overall, "dev/sentiment/accuracy": overall / 2}
            trial.keep_weights(done, lambda path: save_file(weights, path / "model.safetensors"))
            trial.write_epoch(EpochRecord(done, metrics, {}, 0.1, time.time()))
            if num_values:
                import torch  # takes seconds, and most trials do not need it

                from trainable.storage.checkpoint import save_checkpoint

                assert torch.get_num_threads() == 1
                save_checkpoint(trial.checkpoint_dir, done, {"weight": torch.ones(num_values)})
            if misdeed == "dies before it tells" and done == 2 and not (folder / "died").exists():
                (folder / "died").touch()
                os._exit(1)
            report(trial.epochs()[-1])
        return end(Outcome.FINISHED, f"ran {done} epochs")

    return train


def sweep_of(folder: Path, data: Path, *overrides: str) -> SweepConfig:
    """A sweep of seven trials of four epochs, two at a time; two trials have given settings."""
    content = {
        "recipe": "b3",
        "config": {"train.num_epochs": NUM_EPOCHS, "data.dir": str(data)},
        "space": {"optim.lr": {"type": "float", "low": 0.2, "high": 0.9}},
        "first_trials": [
            {"recipe": "baseline", "optim.lr": 0.2},
            {"recipe": "b2", "optim.lr": 0.3},
        ],
        "search": {"num_samples": 7, "baselines": False},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": 2},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_sweep(str(path), overrides, {})


def main(verb: str, folder: Path, overrides: list[str]) -> SweepResult:
    """Run the sweep `<folder>/mine.yaml` in the storage folder `<folder>/runs`."""
    import os

    from mlflow_setup.filesystem.opening import storage_folder
    from mlflow_setup.tracking.store import resolve_tracking

    storage = storage_folder(os.environ.get("STORAGE", folder / "runs"))
    tracking, name = resolve_tracking(folder / "runs"), os.environ.get("SWEEP", "s")
    if verb == "run":
        sweep = read_sweep(str(folder / "mine.yaml"), overrides, {})
        return run_sweep(sweep, name, storage, tracking, train=make_train(), resume_hint="again: s")
    num_more = int(overrides[0]) if verb == "extend" else 0
    return resume_sweep(name, storage, tracking, num_more=num_more, train=make_train())


if __name__ == "__main__":
    import signal

    from mlflow_setup.errors import EnsweepError

    # SIGINT is ignored if tests run in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    except EnsweepError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if result.stop:
        sys.exit(result.stop[1])
    sys.exit(4 if result.unsynced else 0)
