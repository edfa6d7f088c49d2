"""The wheel for a cluster: all of this code, without dependencies, named by its content."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from mlflow_setup.wheel import PACKAGES, pack_wheel

ROOT = Path(__file__).resolve().parents[2]


def run_python(*arguments: str, path: Path, folder: Path) -> str:
    """What Python prints with `path` as its only additional path for imports."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(path)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_wheel_has_every_file_that_a_build_would_pack(tmp_path: Path) -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    expected = set()
    included = tool["setuptools"]["packages"]["find"]["include"]
    folders = [path.parent for name in included for path in ROOT.glob(f"{name}/**/__init__.py")]
    for folder in folders:
        package = ".".join(folder.relative_to(ROOT).parts)
        for pattern in ["*.py", *tool["setuptools"]["package-data"].get(package, [])]:
            expected |= {str(path.relative_to(ROOT)) for path in folder.glob(pattern)}
    with zipfile.ZipFile(pack_wheel(tmp_path)) as wheel:
        packed = set(wheel.namelist())
    assert len(expected) > 100
    assert expected <= packed
    assert {name.partition("/")[0] for name in packed if ".dist-info/" not in name} == set(PACKAGES)
    assert not [name for name in packed if "__pycache__" in name or "/." in name]


def test_the_name_and_content_of_the_wheel_depend_on_the_code_alone(tmp_path: Path) -> None:
    """Ray uploads a wheel only if there is none with its name."""
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    again.mkdir()
    one, two = pack_wheel(first), pack_wheel(again)
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()
    copy = tmp_path / "copy"
    with zipfile.ZipFile(one) as wheel:
        wheel.extractall(copy)
    (copy / "search" / "cluster" / "submit.py").write_text("changed = True\n")
    command = (
        "import sys, pathlib, mlflow_setup.wheel as w; print(w.pack_wheel(pathlib.Path('.')).name)"
    )
    name = run_python("-c", command, path=copy, folder=tmp_path).strip()
    assert name.startswith("ensweep-")
    assert name != one.name


def test_pip_installs_the_wheel_without_dependencies_and_it_runs(tmp_path: Path) -> None:
    """As Ray does: with --target, which would download dependencies that are installed."""
    wheel = pack_wheel(tmp_path)
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", f"--target={target}"]
    subprocess.run([*pip, str(wheel)], check=True)
    assert "selective" in run_python("-m", "ensweep", "sweeps", path=target, folder=tmp_path)
