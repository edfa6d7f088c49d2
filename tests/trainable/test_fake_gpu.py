"""No step of any recipe waits for a GPU or mixes devices: shown without one."""

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
    """In a process of its own, which keeps the device to itself."""
    script = ROOT / "tests" / "helpers" / "fake_gpu.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_encoder), str(tiny_data)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_no_step_and_no_evaluation_of_a_recipe_is_refused(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert {what: why for what, why in refused.items() if why is not None} == {}
    stages = {
        f"{name} {stage}"
        for name in RECIPES.names()
        for stage in resolve(name, (), {}).config.train.stages
    }
    assert set(refused) == stages | {"pretraining", "gradient caching"}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_noticed_and_its_line_named(found: dict[str, Any], fault: str) -> None:
    assert re.search(r"fake_gpu\.py:\d+: ", found["planted"][fault] or "nothing")


def test_what_needs_a_real_device_is_where_the_list_says() -> None:
    """Everything that asks whether a device is CUDA stands in a file of the list."""
    asks = re.compile(r"is_cuda|\.type [!=]= \"cuda\"|torch\.cuda\.|torch\.autocast")
    steps = ("batches", "model", "losses", "evaluation", "runtime")
    files = [path for room in steps for path in (ROOT / "trainable" / room).rglob("*.py")]
    asking = {
        path.relative_to(ROOT).as_posix() for path in files if asks.search(path.read_text("utf-8"))
    }
    assert asking == set(PLAIN)
