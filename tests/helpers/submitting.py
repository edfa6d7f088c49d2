"""Submit sweeps to a cluster with token authentication: real Ray nodes on this machine.

On the nodes our packages can only be imported from the submitted job.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from drivers import ROOT
from patience import PATIENCE

from mlflow_setup.wheel import PACKAGES

TOKEN = "5" * 64


@dataclass(frozen=True)
class Cluster:
    """The process with the nodes, and how to connect to them."""

    process: subprocess.Popen[str]
    folder: Path
    address: str
    gcs: str
    client_port: int

    def tell(self, word: str) -> None:
        """`add`, `lose`, `remove` or `spoil`: see `token_cluster`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert "removed" in json.loads(self.process.stdout.readline())

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def started_cluster(num_workers: int = 2) -> Iterator[Cluster]:
    """Start a head that runs no trials, and workers with one CPU each."""
    folder = Path(tempfile.mkdtemp(prefix="es", dir="/tmp"))  # a short path: sockets are in it
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    for package in PACKAGES:
        (folder / "blocked" / package).mkdir(parents=True)
        blocked = folder / "blocked" / package / "__init__.py"
        blocked.write_text("raise ImportError('not the package that the job contains')\n")
    program = str(ROOT / "tests" / "helpers" / "token_cluster.py")
    process = subprocess.Popen(
        [sys.executable, program, str(folder), str(num_workers)],
        env={**environment(token), "PYTHONPATH": str(folder / "blocked"), "HOME": str(folder)},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline() or "{}")
    assert ready, (folder / "stderr").read_text()
    try:
        yield Cluster(process, folder, ready["address"], ready["gcs"], ready["client_port"])
    finally:
        process.communicate(timeout=PATIENCE)  # its stdin ends
        shutil.rmtree(folder, ignore_errors=True)


def environment(token: Path) -> dict[str, str]:
    """The environment of a client of the cluster."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "OMP_NUM_THREADS": "1",
    }


def sweep_file(
    folder: Path, encoder: Path | str, data: Path | str, num_epochs: int, num_trials: int = 3
) -> Path:
    """Write a sweep of a tiny BERT, with its recipe in a file; the cluster decides how many trials
    run at a time."""
    recipe = {
        "extends": "b3-no-pretraining",
        "model.encoder": str(encoder),
        "train.num_epochs": num_epochs,
        "batching.batch_size": 8,
        "train.precision": "fp32",
        "optim.lr": 1e-3,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    content = {
        "recipe": "tiny.yaml",
        "config": {"data.dir": str(data)},
        "first_trials": [{"recipe": "tiny.yaml", "seed": seed} for seed in range(num_trials)],
        "search": {"num_samples": num_trials, "baselines": False},
        "scheduler": {"name": "none"},
        "resources": {"gpus_per_trial": 0},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def submitted(cluster: Cluster, sweep: Path, *words: str, name: str = "s") -> subprocess.Popen[str]:
    """Run `ensweep submit`, by default with the storage folder `runs` beside the sweep's file."""
    command = [sys.executable, "-m", "ensweep", "submit", str(sweep), "--name", name]
    command += ["--storage", str(sweep.parent / "runs"), *words]
    return subprocess.Popen(
        [*command, "--address", cluster.address],
        env={**environment(cluster.folder / "token"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )
