"""A valid sweep for `ensweep plan`, into which a test plants a fault."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import EnsweepError


class PlannedSweep:
    """A sweep's file, data, encoder, storage and tracking; each can be changed before `plan`."""

    def __init__(self, folder: Path, data: Path, encoder: Path) -> None:
        self.folder, self.data, self.encoder = folder, folder / "data", folder / "encoder"
        shutil.copytree(data, self.data)
        shutil.copytree(encoder, self.encoder)
        self.storage, self.tracking = folder / "runs", ""
        self.closing: list[Callable[[], object]] = []
        self.text: str | None = None  # the file's text, instead of `content`
        self.content: dict[str, Any] = {
            "recipe": "b3",
            "config": {
                "data.dir": str(self.data),
                "model.encoder": str(self.encoder),
                "model.fcn_size": 16,
                "train.num_epochs": 2,
                "batching.batch_size": 8,
                "pretrain.enabled": False,
            },
            "space": {
                "optim.lr": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True},
                "model.head_dropout": {"type": "float", "low": 0.0, "high": 0.4},
            },
            "first_trials": [{"recipe": "baseline", "optim.lr": 2e-4}],
            "search": {"num_samples": 3, "baselines": False},
            "resources": {"gpus_per_trial": 0},
        }

    def command(self) -> list[str]:
        path = self.folder / "mine.yaml"
        text = self.text or yaml.safe_dump(self.content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        words = ["plan", str(path), "--name", "s", "--storage", str(self.storage)]
        return words + (["--tracking-uri", self.tracking] if self.tracking else [])

    def plan(self) -> tuple[int, str, float]:
        """Run `ensweep plan`. Return exit code, output, and seconds."""
        started = time.monotonic()
        done = CliRunner().invoke(app, self.command())
        for close in self.closing:
            close()
        seconds = time.monotonic() - started
        if isinstance(done.exception, EnsweepError):
            return done.exception.exit_code, f"{done.output}{done.exception}", seconds
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output, seconds

    def edit(self, name: str, change: Callable[[list[str]], object]) -> None:
        """Change the lines of a data file."""
        path = self.data / name
        lines = path.read_text(encoding="utf-8").splitlines()
        change(lines)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
