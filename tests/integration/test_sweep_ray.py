"""A sweep under a real Ray Tune and a real MLflow, with a stand-in for training."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import yaml
from rich.console import Console

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.runs import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking import Tracking, resolve_tracking
from search.cluster import find_slots
from search.results import leaderboard
from search.sweep import run_sweep
from search.sweep_config import Resources, SweepConfig
from search.sweep_file import read_sweep
from trainable.record import TrialFolder
from trainable.trial import Train

pytestmark = pytest.mark.slow


def make_train() -> Train:
    """A trial whose scores follow from its learning rate; 0003 diverges, 0004 always fails.

    Ray carries a function that is made in a function to its workers as it is.
    """

    def train(config, folder, *, identity, report, shared):  # type: ignore[no-untyped-def]
        import os
        import time

        import torch

        from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
        from trainable.record import TrialFolder

        assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]) == 1
        trial = TrialFolder(folder)
        values, seed = config.flat(), config.seed
        trial.create(
            TrialRecord(
                identity.trial,
                identity.sweep,
                identity.recipe,
                values,
                identity.origin,
                seed,
                "data",
                None,
                time.time(),
                identity.searched,
            )
        )
        outcome, reason = Outcome.FINISHED, "ran 4 epochs"
        done = len(trial.epochs())
        while done < config.train.num_epochs:
            if identity.trial == "0003":
                outcome, reason = Outcome.DIVERGED, "the loss of sentiment is nan"
                break
            if identity.trial == "0004":
                raise RuntimeError("no luck\nat all")
            done += 1
            overall = 1 - config.optim.lr + done / 100
            metrics = {"dev/overall": overall, "dev/sentiment/accuracy": overall / 2}
            trial.keep_weights(done, lambda path: None)
            trial.write_epoch(EpochRecord(done, metrics, {}, 0.1, time.time()))
            if identity.trial == "0002" and done == 2 and not (folder / "crashed").exists():
                (folder / "crashed").touch()
                os._exit(1)
            report(trial.epochs()[-1])
            time.sleep(float(os.environ.get("SECONDS_AN_EPOCH", "0")))
        record = OutcomeRecord(outcome, reason, done, time.time())
        trial.write_outcome(record)
        return record

    return train


def sweep_of(folder: Path, tiny_data: Path, *overrides: str) -> SweepConfig:
    content = {
        "recipe": "b3",
        "config": {"train.num_epochs": 4, "data.dir": str(tiny_data)},
        "space": {"optim.lr": {"type": "float", "low": 0.2, "high": 0.9}},
        "first_trials": [
            {"recipe": "baseline", "optim.lr": 0.2},
            {"recipe": "b2", "optim.lr": 0.3},
        ],
        "search": {"num_samples": 7},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": 2},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_sweep(str(path), overrides, {})


def test_a_sweep_from_start_to_end(tmp_path: Path, tiny_data: Path) -> None:
    sweep = sweep_of(tmp_path, tiny_data)
    tracking = resolve_tracking(tmp_path / "runs")
    shown = io.StringIO()
    result = run_sweep(
        sweep, "s", tmp_path / "runs", tracking, console=Console(file=shown), train=make_train()
    )
    assert not ray.is_initialized()
    outcomes = {t.record.trial: t.outcome.outcome for t in result.trials if t.outcome is not None}
    assert len(outcomes) == 7
    assert outcomes["0001-baseline"] is Outcome.FINISHED
    assert outcomes["0003"] is Outcome.DIVERGED
    assert outcomes["0004"] is Outcome.FAILED
    assert Outcome.PRUNED in outcomes.values()
    assert result.best is not None
    assert result.best[0] == "0001-baseline"
    assert result.unsynced == ()

    arrivals = [len(rung.arrivals) for rung in result.rungs]
    assert arrivals[0] == 5  # all but the diverged and the failed one, the crashed one once
    assert sum(len(rung.stops) for rung in result.rungs) == len(result.ended(Outcome.PRUNED))

    records = {run.trial: run for run in find_trials(tracking, "s")}
    assert {name: run.outcome for name, run in records.items()} == outcomes
    assert "RUNNING" not in {run.status for run in records.values()}
    assert tracking.search({"kind": "sweep", "sweep": "s"})[0].info.status == "FINISHED"
    assert records["0004"].tags["outcome_reason"] == "RuntimeError: no luck"
    for name in result.ended(Outcome.PRUNED):
        assert records[name].status == "FINISHED"
        assert "below cut-off" in records[name].tags["outcome_reason"]
        assert TrialFolder(result.folder / "trials" / name).decisions()[-1].action == "stop"
    assert leaderboard(list(records.values()))[0].trial == "0001-baseline"

    written = json.loads((result.folder / "sweep.yaml").read_text(encoding="utf-8"))
    assert written["search"]["num_samples"] == 7
    lines = shown.getvalue()
    assert "0001-baseline: epoch 4/4" in lines
    assert "0003: diverged, the loss of sentiment is nan" in lines

    with pytest.raises(ConfigError, match="sweep 's' is already tracked"):
        run_sweep(sweep, "s", tmp_path / "other", tracking, train=make_train())


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, tiny_data: Path) -> None:
    tracking = resolve_tracking(tmp_path / "runs")
    sweep = sweep_of(tmp_path, tiny_data, f"data.dir={tmp_path / 'nowhere'}")
    with pytest.raises((DataError, ConfigError), match="nowhere"):
        run_sweep(sweep, "s", tmp_path / "runs", tracking)
    sweep = sweep_of(tmp_path, tiny_data)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    with pytest.raises(ConfigError, match="sweep 'taken' already exists"):
        run_sweep(sweep, "taken", tmp_path / "runs", tracking)
    with pytest.raises(ConfigError, match="sweep"):
        run_sweep(sweep, "../up", tmp_path / "runs", tracking)
    with pytest.raises(ConfigError, match="tracking"):
        run_sweep(sweep, "s", tmp_path / "runs", Tracking("sqlite:////proc/none/mlflow.db"))
    assert not ray.is_initialized()
    assert not (tmp_path / "runs" / "s").exists()


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["int", "term"]
)
def test_an_interrupted_sweep_leaves_nothing_running(
    tmp_path: Path, tiny_data: Path, number: signal.Signals, exit_code: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER, encoding="utf-8")
    command = [sys.executable, str(script), str(Path(__file__)), str(tmp_path)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "SECONDS_AN_EPOCH": "30", "PYTHONPATH": root}
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/s/trials/*/epochs/*.json")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    driver.send_signal(number)
    _, text = driver.communicate(timeout=180)
    assert driver.returncode == exit_code, text
    records = find_trials(resolve_tracking(tmp_path / "runs"), "s")
    statuses = {run.outcome: run.status for run in records}
    assert statuses.pop(Outcome.STOPPED) == "KILLED"
    assert statuses in ({}, {Outcome.PRUNED: "FINISHED"})


_DRIVER = """
import importlib.util, signal, sys
from pathlib import Path

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background

def main():
    spec = importlib.util.spec_from_file_location("helper", sys.argv[1])
    helper = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helper)
    folder = Path(sys.argv[2])
    sweep = helper.read_sweep(str(folder / "mine.yaml"), (), {})
    storage = folder / "runs"
    helper.run_sweep(
        sweep, "s", storage, helper.resolve_tracking(storage), train=helper.make_train()
    )

try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("asked", "total", "slots"),
    [
        ({}, {"CPU": 2.0}, (0.0, 2)),
        ({"cpus_per_trial": 2}, {"CPU": 5.0}, (0.0, 2)),
        ({}, {"CPU": 8.0, "GPU": 2.0}, (1.0, 2)),
        ({"gpus_per_trial": 0.5}, {"CPU": 8.0, "GPU": 2.0}, (0.5, 4)),
        ({"gpus_per_trial": 0}, {"CPU": 8.0, "GPU": 2.0}, (0.0, 8)),
        ({"gpus_per_trial": 1, "max_concurrent_trials": 8}, {"CPU": 8.0}, (1.0, 8)),
    ],
)
def test_find_slots(
    asked: dict[str, float], total: dict[str, float], slots: tuple[float, int]
) -> None:
    found = find_slots(Resources.model_validate(asked, strict=False), total)
    assert (found.gpus_per_trial, found.max_concurrent_trials) == slots


@pytest.mark.parametrize("asked", [{"cpus_per_trial": 3}, {"gpus_per_trial": 1.0}])
def test_a_trial_that_never_fits_is_refused(asked: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="resources: a trial needs"):
        find_slots(Resources.model_validate(asked), {"CPU": 2.0})
