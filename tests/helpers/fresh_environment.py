"""A virtual environment with only the requirements of a model, made without a network.

pip installs the model's wheel. The other requirements are links to the distributions installed
here: exactly those that the requirements depend on, without our packages.
"""

import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, model: Path) -> Path:
    """Make an environment for the MLflow model in `model`. Return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    lines = (model / "requirements.txt").read_text().split()
    wheels = [line for line in lines if line.endswith(".whl")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", f"--target={packages}"]
    subprocess.run([*pip, *wheels], cwd=model, check=True)
    pinned = [line for line in lines if line not in wheels]
    assert all("==" in line for line in pinned), pinned
    for name in _closure(pinned):
        for top in {file.parts[0] for file in distribution(name).files or () if file.parts}:
            source = Path(str(distribution(name).locate_file(top)))
            if top != ".." and top != "__pycache__":
                _link(source, packages / top)
    return folder / "bin" / "python"


def _closure(requirements: list[str]) -> set[str]:
    """The installed distributions that pip would install for the requirements."""
    found: set[str] = set()
    todo = [Requirement(line) for line in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        assert requirement.specifier.contains(installed.version, prereleases=True), requirement
        found.add(name)
        todo += map(Requirement, installed.requires or ())
    return found - {"ensweep"}


def _link(source: Path, target: Path) -> None:
    """Link a package; folders that several distributions share are created instead."""
    if source.is_dir() and not (source / "__init__.py").exists() and source.suffix != ".dist-info":
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            _link(path, target / path.name)
    elif source.exists() and not target.exists():
        target.symlink_to(source)
