"""Fixtures of these tests."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lively import vouch
from safetensors.numpy import load_file, save_file

from ensemble.bundle.format import ENSEMBLE, WEIGHTS
from ensemble.inference.ensemble import Ensemble


@pytest.fixture(scope="module")
def ensemble(tiny_bundle: Path) -> Ensemble:
    return Ensemble.load(tiny_bundle)


@pytest.fixture(scope="module")
def lively(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with random weights, so that outputs depend on the sentence, and two members for
    every task."""
    folder = tmp_path_factory.mktemp("lively") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    content = json.loads((folder / ENSEMBLE).read_text())
    members = sorted(content["members"])
    for entry in content["tasks"].values():
        entry["members"] = [
            {"member": member, "weight": weight}
            for member, weight in zip(members, (0.25, 0.75), strict=True)
        ]
    (folder / ENSEMBLE).write_text(json.dumps(content))
    for number, path in enumerate(sorted(folder.rglob(WEIGHTS))):
        draw = np.random.default_rng(number)
        state = load_file(path)
        for name, value in state.items():
            if value.ndim == 2:
                state[name] = draw.standard_normal(value.shape).astype(np.float32)
        save_file(state, path)
    vouch(folder)
    return folder
