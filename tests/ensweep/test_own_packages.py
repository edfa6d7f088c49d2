"""Our packages are imported, not modules of their names in the current folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("mlflow_setup", "trainable", "ensemble", "search")


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A folder with modules of the user that have the names of our packages."""
    for name in NAMES[:2]:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user's own')\n")
    for name in NAMES[2:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_imports_our_packages(user_folder: Path) -> None:
    done = python(user_folder, "-m", "ensweep", "recipes")
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout


def test_a_notebook_imports_our_packages(user_folder: Path) -> None:
    code = f"import ensweep, importlib as i\nfor n in {NAMES}: print(i.import_module(n).__file__)"
    done = python(user_folder, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ROOT / name / "__init__.py") for name in NAMES]


@pytest.mark.parametrize("name", NAMES[2:])
def test_a_foreign_module_that_is_already_imported_is_reported(
    user_folder: Path, name: str
) -> None:
    done = python(user_folder, "-c", f"import {name}, ensweep")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: ensweep has a package {name}, and ")
    assert str(user_folder / name / "__init__.py") in last
    assert "import ensweep before it" in last


def test_our_packages_may_be_imported_first() -> None:
    done = python(ROOT, "-c", "import search, ensemble, ensweep, trainable; ensweep.own_packages()")
    assert done.returncode == 0, done.stderr
