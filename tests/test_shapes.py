"""Whoever takes or returns arrays says their shapes, in dimensions that the page names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARRAY = re.compile(r"\b(Tensor|NDArray|Floats|Mask|Integers)\b")
SHAPE = re.compile(r"\[([^\]\n]*)\]")
SCALAR = re.compile(r"\ba\s+scalar\b")


def functions() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Public functions, and public methods that say what they do; with their name, and the
    docstrings of the module and the class that they are in."""
    for package in ("trainable", "ensemble", "search", "mlflow_setup", "ensweep"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ast.parse(path.read_text(encoding="utf-8"))
            about = ast.get_docstring(module) or ""
            for node in module.body:
                of_class = isinstance(node, ast.ClassDef)
                inside = about + (ast.get_docstring(node) or "") if of_class else about
                for each in node.body if isinstance(node, ast.ClassDef) else [node]:
                    if not isinstance(each, ast.FunctionDef) or each.name.startswith("_"):
                        continue
                    if not of_class or ast.get_docstring(each):  # else it is its base's
                        yield f"{path.relative_to(ROOT)}: {each.name}", each, inside


def annotations(function: ast.FunctionDef) -> list[str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    given = [*(each.annotation for each in arguments), function.returns]
    return [ast.unparse(each) for each in given if each is not None]


def test_functions_of_arrays_say_their_shapes() -> None:
    silent, unnamed, num_seen = [], [], 0
    for name, function, around in functions():
        if not any(map(ARRAY.search, annotations(function))):
            continue
        num_seen += 1
        said = ast.get_docstring(function) or ""
        shapes = SHAPE.findall(said)
        if not shapes and not SCALAR.search(said):
            silent.append(name)
        named = SHAPE.sub("", f"{around}\n{said}")  # `N rows`, `H hidden size`
        letters = {letter for shape in shapes for letter in re.findall(r"\b[A-Z]\b", shape)}
        lacking = sorted(x for x in letters if not re.search(rf"\b{x} (>= \d+ )?\w", named))
        if lacking:
            unnamed.append(f"{name}: {', '.join(lacking)}")
    assert num_seen > 100
    assert silent == []
    assert unnamed == []
