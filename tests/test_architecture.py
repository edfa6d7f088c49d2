"""Paths, test files and anchors in the docs exist, docs/architecture.md shows every package, and
modules and functions are short."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")
FOLDERS = sorted(path.parent for name in PACKAGES for path in (ROOT / name).rglob("__init__.py"))
MAX_MODULES, MAX_LINES, MAX_BODY = 12, 300, 50
PATHS = r"`((?:ensweep|search|ensemble|trainable|mlflow_setup|tests|benchmarks)/[\w/.]*)`"


def test_paths_in_the_docs_exist() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {path for page in pages for path in re.findall(PATHS, page.read_text("utf-8"))}
    assert len(named) > 20
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_test_files_in_the_docs_exist() -> None:
    pages = (ROOT / "docs").glob("*.md")
    named = {name for page in pages for name in re.findall(r"`(test_\w+\.py)`", page.read_text())}
    existing = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 5
    assert sorted(named - existing) == []


def test_the_diagram_shows_every_package() -> None:
    diagram = set(re.findall(r"\w+", PAGE.partition("```text")[2].partition("```")[0]))
    inner = {"cli", "kernels"}
    assert [folder for folder in FOLDERS if folder.name not in diagram | inner] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_packages_are_small_and_have_a_docstring(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
    assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""')


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short(package: str) -> None:
    """Signature and docstring do not count."""
    long = {}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                body = node.body[ast.get_docstring(node) is not None :] or node.body
                long[f"{path.name}: {node.name}"] = node.end_lineno - body[0].lineno + 1
    assert {name: count for name, count in long.items() if count > MAX_BODY} == {}


def test_link_anchors_exist() -> None:
    """Each anchor is one that GitHub generates for a heading of the linked page."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    wrong = [
        f"{page.name}: {target}#{anchor}"
        for page in pages
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", page.read_text("utf-8"))
        if anchor not in _anchors((page.parent / target if target else page).read_text("utf-8"))
    ]
    assert wrong == []


def _anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
