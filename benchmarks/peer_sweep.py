"""Compare a sweep with Ray Tune's OptunaSearch, ASHA and MLflowLoggerCallback, as shipped.

    python benchmarks/peer_sweep.py --trials 200

Both run the same trials, two at a time: each sleeps a second in four epochs and reports a score
after each. All scores are equal, so that neither scheduler stops a trial. Each has its own MLflow
server, started here. Reported are the seconds from the first trial's start to the last one's end,
compared with the sleeping time alone, and the number of requests that the driver sends to MLflow.

Then each driver is killed, with all of its processes, when a third of its trials have ended, and is
resumed by its own means (`Tuner.restore`, `resume`). Reported are the epochs that are run again,
and the state of MLflow at the end. Ray Tune is measured by default and with `reuse_actors=True`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

# Trials import this file, so what only the benchmark needs is imported in its functions.
EPOCHS = 4
ROLES = ("ours", "tune", "tune, reused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument(
        "--killed-trials", type=int, default=24, help="trials of the sweep that is killed"
    )
    parser.add_argument("--roles", nargs="*", choices=ROLES, default=ROLES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        drive(**json.loads(given.child))
        return
    for role in given.roles:
        whole = measure(role, given.trials, is_killed=False)
        print(json.dumps({"role": role, **whole}), flush=True)
        lost = measure(role, given.killed_trials, is_killed=True)
        print(json.dumps({"role": role, "killed": True, **lost}), flush=True)


def measure(role: str, num_trials: int, *, is_killed: bool) -> dict[str, Any]:
    """Run a sweep in its own process, with its own tracking server."""
    from many_runs import Served

    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as server:
        root = Path(folder)
        (root / "seen").mkdir()
        given = {"role": role, "folder": folder, "uri": server.uri, "num_trials": num_trials}
        started = time.perf_counter()
        process = start({**given, "is_resumed": False})
        if is_killed:
            while sum(len(epochs) >= EPOCHS for epochs in seen(root).values()) < num_trials / 3:
                time.sleep(0.05)
            kill(process)
            process = start({**given, "is_resumed": True})
        if process.wait():
            sys.exit((root / "driver.log").read_text()[-3000:])
        whole = time.perf_counter() - started
        times = [time for epochs in seen(root).values() for each in epochs for time in each[1:]]
        span, floor = max(times) - min(times), num_trials / 2
        return {
            "trials": num_trials,
            "floor s": floor,
            "first start to last end s": round(span, 1),
            "over the floor": round(span / floor - 1, 3),
            "whole call s": round(whole, 1),
            "MLflow requests a trial": json.loads((root / "sent.json").read_text()) / num_trials,
            "load": os.getloadavg()[0],
            **known_to_mlflow(server.uri, root, num_trials),
        }


def start(given: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", json.dumps(given)]
    with (Path(given["folder"]) / "driver.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the driver and all of its child processes at once, as the loss of a machine would."""
    import psutil

    doomed = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(doomed, timeout=20)
    process.wait()


def seen(root: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Trial -> the epochs that it ran: number, start and end of each."""
    found = {}
    for path in (root / "seen").glob("*"):
        lines = path.read_text().splitlines()
        found[path.name] = [tuple(json.loads(line)) for line in lines if line.endswith("]")]
    return found


def known_to_mlflow(uri: str, root: Path, num_trials: int) -> dict[str, Any]:
    """The epochs that were run twice, and the runs that the server has."""
    from mlflow_setup.tracking.client import MlflowClient

    client = MlflowClient(uri)
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], max_results=1000)
        if "value" in run.data.metrics or "dev/overall" in run.data.metrics
    ]
    statuses = Counter(run.info.status for run in runs)
    epochs = sum(map(len, seen(root).values()))
    return {
        "epochs run twice": epochs - num_trials * EPOCHS,
        "runs in MLflow": len(runs),
        "of them not FINISHED": len(runs) - statuses["FINISHED"],
    }


def drive(role: str, folder: str, uri: str, num_trials: int, is_resumed: bool) -> None:
    """Run a sweep's driver, and count its requests to MLflow."""
    import requests

    send, sent = requests.Session.send, Path(folder) / "sent.json"
    count = json.loads(sent.read_text()) if sent.exists() else 0

    def counted(session: Any, request: Any, **how: Any) -> Any:
        nonlocal count
        count += "/mlflow" in request.url
        return send(session, request, **how)

    requests.Session.send = counted  # type: ignore[method-assign]
    if role == "ours":
        drive_ours(Path(folder), uri, num_trials, is_resumed)
    else:
        drive_tune(Path(folder), uri, num_trials, is_resumed, is_reused=role == "tune, reused")
    sent.write_text(json.dumps(count))


def run_epoch(folder: str, trial: str, epoch: int) -> float:
    """Sleep a quarter of a second, and return the score."""
    started = time.time()
    time.sleep(1 / EPOCHS)
    with (Path(folder) / "seen" / trial).open("a") as file:
        file.write(json.dumps([epoch, started, time.time()]) + "\n")
    return 0.5


def drive_tune(
    folder: Path, uri: str, num_trials: int, is_resumed: bool, *, is_reused: bool
) -> None:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    here, root = str(Path(__file__).parent), str(folder)
    ray.init(num_cpus=2, runtime_env={"env_vars": {"PYTHONPATH": here}})

    def train(config: dict[str, Any]) -> None:
        from peer_sweep import EPOCHS, run_epoch

        trial = tune.get_context().get_trial_id()
        for epoch in range(1, EPOCHS + 1):
            tune.report({"value": run_epoch(root, trial, epoch)})

    space = {
        "lr": tune.loguniform(1e-5, 1e-3),
        "dropout": tune.uniform(0.0, 0.5),
        "size": tune.choice([128, 256, 512]),
        "weight": tune.loguniform(0.1, 10),
    }
    if is_resumed:
        tuner = tune.Tuner.restore(str(folder / "s"), trainable=train, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            train,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="value",
                mode="max",
                num_samples=num_trials,
                search_alg=OptunaSearch(),
                scheduler=ASHAScheduler(max_t=EPOCHS),
                reuse_actors=is_reused,
            ),
            run_config=tune.RunConfig(
                name="s",
                storage_path=root,
                callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="s")],
            ),
        )
    tuner.fit()


def drive_ours(folder: Path, uri: str, num_trials: int, is_resumed: bool) -> None:
    from sweep_overhead import SPACE, _quiet, _write_data

    from mlflow_setup.tracking.store import Tracking
    from search.config.load import read_sweep
    from search.driver.sweep import resume_sweep, run_sweep

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    if is_resumed:
        resume_sweep("s", folder, Tracking(uri), console=_quiet(), train=sleeper(str(folder)))
        return
    _write_data(folder / "data")
    data = {"data.dir": str(folder / "data"), "data.tasks": ["sentiment"]}
    content = {
        "recipe": "b3",
        "config": {"train.num_epochs": EPOCHS, "train.stages": ["finetune"], **data},
        "space": SPACE,
        "search": {"num_samples": num_trials, "baselines": False},
        "scheduler": {"name": "halving", "grace_period": 1, "reduction_factor": 4},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": 2},
    }
    path = folder / "s.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    sweep = read_sweep(str(path), (), {})
    run_sweep(sweep, "s", folder, Tracking(uri), console=_quiet(), train=sleeper(str(folder)))


def sleeper(root: str) -> Any:
    def train(config, folder, *, identity, report, stop, shared):  # type: ignore[no-untyped-def]
        import time

        from peer_sweep import EPOCHS, run_epoch

        from mlflow_setup.schema import (
            UNKNOWN_DATA,
            EpochRecord,
            Outcome,
            OutcomeRecord,
            TrialRecord,
        )
        from trainable.storage.trial_folder import TrialFolder

        trial = TrialFolder(folder)
        names = identity.trial, identity.sweep, identity.recipe
        if not trial.epochs():
            facts = config.flat(), {}, 0, UNKNOWN_DATA, None, time.time()
            trial.create(TrialRecord(*names, *facts))
        for epoch in range(len(trial.epochs()) + 1, EPOCHS + 1):
            value = run_epoch(root, identity.trial, epoch)
            metrics = {"dev/overall": value, "dev/sentiment/accuracy": value}
            trial.write_epoch(EpochRecord(epoch, metrics, {}, 1 / EPOCHS, time.time()))
            report(trial.epochs()[-1])
        ended = OutcomeRecord(Outcome.FINISHED, "slept", EPOCHS, time.time())
        trial.write_outcome(ended)
        return ended

    return train


if __name__ == "__main__":
    main()
