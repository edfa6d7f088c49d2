"""The floors hold: imports go down only, and the heavy libraries stay where they belong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, '.'); "
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold(copy: Path) -> None:
    done = _lint(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("trainable/evaluation/metrics.py", "import search.config.space"),
        ("mlflow_setup/schema.py", "import trainable.config.tasks"),
        ("ensemble/selection/greedy.py", "import ensweep"),
        ("ensemble/selection/greedy.py", "import torch"),
        ("mlflow_setup/runs/query.py", "import torch"),
        ("trainable/training/train.py", "import mlflow"),
        ("trainable/training/train.py", "import ray"),
        ("ensemble/candidates/pool.py", "import optuna"),
        ("ensweep/cli/training/data.py", "import torch"),
    ],
)
def test_a_forbidden_import_breaks_them(copy: Path, file: str, line: str) -> None:
    path = copy / file
    path.write_text(path.read_text() + f"\n{line}  # noqa\n")
    done = _lint(copy)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout
