"""A virtual environment with what a model requires and nothing else, made without a network.

The wheel is installed by pip as an environment's maker would. The other requirements are the
installed ones, linked: exactly the distributions that the requirements lead to, whatever else is
installed here; not our packages, which are importable here from wherever the tests run.
"""

import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, model: Path) -> Path:
    """Its Python; the requirements are those of the MLflow model in `model`."""
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
    """The distributions that pip would install, of those that are installed here."""
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
    """Link a package; folders that several distributions share are made anew."""
    if source.is_dir() and not (source / "__init__.py").exists() and source.suffix != ".dist-info":
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            _link(path, target / path.name)
    elif source.exists() and not target.exists():
        target.symlink_to(source)
