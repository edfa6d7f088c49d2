"""The pages name paths that are there, and the one on architecture every room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")
ROOMS = sorted(path.parent for name in PACKAGES for path in (ROOT / name).rglob("__init__.py"))
MAX_MODULES, MAX_LINES, MAX_BODY = 12, 300, 50


PATHS = r"`((?:ensweep|search|ensemble|trainable|mlflow_setup|tests|benchmarks)/[\w/.]*)`"


def test_every_path_that_a_page_names_is_there() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {path for page in pages for path in re.findall(PATHS, page.read_text("utf-8"))}
    assert len(named) > 20
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_every_test_file_that_a_page_names_is_there() -> None:
    pages = (ROOT / "docs").glob("*.md")
    named = {name for page in pages for name in re.findall(r"`(test_\w+\.py)`", page.read_text())}
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 5
    assert sorted(named - there) == []


def test_every_room_is_in_the_picture() -> None:
    picture = set(re.findall(r"\w+", PAGE.partition("```text")[2].partition("```")[0]))
    inner = {"cli", "kernels"}
    assert [room for room in ROOMS if room.name not in picture | inner] == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_is_small_and_says_what_is_in_it(room: Path) -> None:
    modules = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
    assert (room / "__init__.py").read_text(encoding="utf-8").startswith('"""')


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short(package: str) -> None:
    """Of a function counts what it does: the lines after its signature and its docstring."""
    long = {}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                body = node.body[ast.get_docstring(node) is not None :] or node.body
                long[f"{path.name}: {node.name}"] = node.end_lineno - body[0].lineno + 1
    assert {name: count for name, count in long.items() if count > MAX_BODY} == {}


def test_anchors_lead_to_a_heading() -> None:
    """Of links between pages, and within one, by the anchors that GitHub makes of headings."""
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
