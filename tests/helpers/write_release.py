"""Write a small storage folder, its database, a checkpoint and a bundle in this release's formats.

    ENSWEEP_WRITE_RELEASE=1 pytest tests/integration/test_release.py

After changing a format, raise its schema version and update tests/data/release.tar.xz by this.
"""

import shutil
import tarfile
from pathlib import Path

import yaml

from ensemble.choice.request import Request
from ensemble.export.write import export
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import Identity
from mlflow_setup.tracking.store import resolve_tracking
from search.config.load import read_sweep
from search.storage.sweep_folder import SweepFolder
from trainable.config.parse import from_flat
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

STOPPED = "0002"
NUM_EPOCHS = 2


def write_release(folder: Path, encoder: Path, data: Path, archive: Path) -> None:
    """Write a sweep `s` of two trials below `folder`; the second was stopped after an epoch."""
    storage = folder / "runs"
    shutil.copytree(encoder, storage / "encoder")
    shutil.copytree(data, storage / "data")
    config = {
        "data.dir": str(storage / "data"),
        "model.encoder": str(storage / "encoder"),
        "model.fcn_size": 4,
        "train.num_epochs": NUM_EPOCHS,
        "train.precision": "fp32",
    }
    space = {"optim.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    path = folder / "s.yaml"
    path.write_text(
        yaml.safe_dump({"config": config, "space": space, "search": {"num_samples": 2}})
    )
    sweep = read_sweep(str(path), (), {})
    own = SweepFolder(storage, "s")
    own.create(sweep)
    tracking = resolve_tracking(storage)
    mirror = Mirror(tracking, "s")
    mirror.start({"recipe": sweep.recipe}, {"sweep": "s"})
    for number, name in enumerate(("0001", STOPPED), start=1):
        lr = number * 1e-3
        trial = own.trial(name)
        seen: list[int] = []
        train(
            from_flat({**sweep.base().settings, "optim.lr": lr}),
            trial.path,
            identity=Identity(name, "s", sweep.recipe, {}, ("optim.lr",)),
            report=lambda record, seen=seen: seen.append(record.epoch),
            stop=lambda name=name, seen=seen: name == STOPPED and bool(seen),
        )
        mirror.project(TrialFolder(trial.path).snapshot())
    mirror.finish("KILLED")
    export(tracking, Request(("s",), rule="simple"), storage / ".cache", folder / "bundle")
    path.unlink()
    with tarfile.open(archive, "w:xz") as packed:
        for part in ("runs", "bundle"):
            packed.add(folder / part, part)
