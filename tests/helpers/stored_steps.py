"""Checkpoints by their step, and the files of a folder."""

from pathlib import Path
from typing import Any

import torch

from mlflow_setup.filesystem.storage import TEMPORARY
from trainable.storage.checkpoint import load_newest

CHILD_SECONDS = 120
"""Seconds after which a forked child that hangs is killed, and its test fails."""


def state(step: int, seed: int = 0) -> dict[str, Any]:
    weight = torch.randn(2500, generator=torch.Generator().manual_seed(1000 * seed + step))
    return {"step": step, "weight": weight}


def loaded_step(folder: Path) -> int:
    """The step of the newest checkpoint; asserts that all its parts are from that step."""
    found = load_newest(folder)
    assert found is not None
    step, content = found
    assert content["step"] == step
    assert torch.equal(content["weight"], state(step)["weight"])
    return step


def assert_no_leftovers(folder: Path) -> None:
    assert not list(folder.rglob(f"{TEMPORARY}*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
