"""No step of any recipe waits for a GPU or mixes devices, tested with a fake GPU."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import PLAIN, PLANTED

from trainable.config.recipe import RECIPES, resolve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tiny_encoder: Path, tiny_data: Path) -> dict[str, Any]:
    """Results of the fake GPU, which needs its own process."""
    script = ROOT / "tests" / "helpers" / "fake_gpu.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_encoder), str(tiny_data)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_no_step_or_evaluation_of_a_recipe_fails_on_a_gpu(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert {what: why for what, why in refused.items() if why is not None} == {}
    stages = {
        f"{name} {stage}"
        for name in RECIPES.names()
        for stage in resolve(name, (), {}).config.train.stages
    }
    assert set(refused) == stages | {"pretraining", "gradient caching"}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_detected_with_its_line(found: dict[str, Any], fault: str) -> None:
    assert re.search(r"fake_gpu\.py:\d+: ", found["planted"][fault] or "nothing")


def test_only_the_listed_files_depend_on_the_kind_of_device() -> None:
    checks_device = re.compile(r"is_cuda|\.type [!=]= \"cuda\"|torch\.cuda\.|torch\.autocast")
    steps = ("batches", "model", "losses", "evaluation", "runtime")
    files = [path for folder in steps for path in (ROOT / "trainable" / folder).rglob("*.py")]
    found = [path for path in files if checks_device.search(path.read_text("utf-8"))]
    assert {path.relative_to(ROOT).as_posix() for path in found} == set(PLAIN)
