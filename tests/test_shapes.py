"""Docstrings of functions with arrays state their shapes, and what each dimension means."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARRAY = re.compile(r"\b(Tensor|NDArray|Floats|Mask|Integers)\b")
SHAPE = re.compile(r"\[([^\]\n]*)\]")
SCALAR = re.compile(r"\ba\s+scalar\b")


def functions() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Public functions, and public methods that have a docstring: name, syntax tree, and the
    docstrings of their module and class."""
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
                    if not of_class or ast.get_docstring(each):  # else the base class documents it
                        yield f"{path.relative_to(ROOT)}: {each.name}", each, inside


def annotations(function: ast.FunctionDef) -> list[str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    types = [*(each.annotation for each in arguments), function.returns]
    return [ast.unparse(each) for each in types if each is not None]


def test_docstrings_state_the_shapes_of_arrays() -> None:
    without_shape, undefined, num_checked = [], [], 0
    for name, function, context in functions():
        if not any(map(ARRAY.search, annotations(function))):
            continue
        num_checked += 1
        docstring = ast.get_docstring(function) or ""
        shapes = SHAPE.findall(docstring)
        if not shapes and not SCALAR.search(docstring):
            without_shape.append(name)
        text = SHAPE.sub("", f"{context}\n{docstring}")  # `N rows`, `H hidden size`
        letters = {letter for shape in shapes for letter in re.findall(r"\b[A-Z]\b", shape)}
        missing = sorted(x for x in letters if not re.search(rf"\b{x} (>= \d+ )?\w", text))
        if missing:
            undefined.append(f"{name}: {', '.join(missing)}")
    assert num_checked > 100
    assert without_shape == []
    assert undefined == []
