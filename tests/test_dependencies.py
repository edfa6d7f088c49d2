"""Imported packages are declared, with lower bounds that the pinned versions meet."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")


def _imported() -> set[str]:
    """The distributions whose modules the packages import."""
    modules: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module).split(".")[0])
    modules -= {*sys.stdlib_module_names, *PACKAGES}
    by_module = packages_distributions()
    # several distributions contain mlflow's modules; the one to declare is mlflow
    return {
        canonicalize_name(module if module in by_module[module] else by_module[module][0])
        for module in modules
    }


def _declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = map(Requirement, project["dependencies"])
    return {canonicalize_name(each.name): each for each in requirements}


def test_imported_packages_are_declared() -> None:
    imported = _imported()
    assert {"mlflow", "requests", "sqlalchemy", "pyyaml"} <= imported
    assert imported - set(_declared()) == set()


def test_pinned_and_installed_versions_meet_the_lower_bounds() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    pinned = {canonicalize_name(name): Version(text) for name, text in lines}
    for name, requirement in _declared().items():
        assert [bound.operator for bound in requirement.specifier] == [">="], name
        assert requirement.specifier.contains(pinned[name]), name
        assert requirement.specifier.contains(version(name)), name
