"""Run a notebook's cells in order in one namespace, without a kernel.

    python tests/helpers/notebook.py docs/tour.ipynb

runs them in the working directory and writes their outputs into the notebook.
"""

import ast
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_cells(path: Path, edit: Callable[[str], str] = lambda source: source) -> dict[str, Any]:
    """Run the cells of a notebook. Return the notebook with their outputs.

    Args:
        edit: changes a cell's source before it is run.
    """
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        printed, shown = _run(edit("".join(cell["source"])), f"cell {number}", namespace)
        cell["execution_count"], cell["outputs"] = number, []
        if printed:
            stream = {"name": "stdout", "output_type": "stream", "text": _lines(printed)}
            cell["outputs"].append(stream)
        if shown is not None:
            cell["outputs"].append(_result(shown, number))
    return notebook


def _run(source: str, name: str, namespace: dict[str, Any]) -> tuple[str, Any]:
    """Run a cell. Return its output, and the value of its last line if that is an expression."""
    tree, last = ast.parse(source, name), None
    if isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        exec(compile(tree, name, "exec"), namespace)  # noqa: S102 - our own pages
        value = last and eval(compile(last, name, "eval"), namespace)  # noqa: S307
    return stream.getvalue(), value


def _result(value: Any, number: int) -> dict[str, Any]:
    data = {"text/plain": _lines(repr(value))}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = _lines(value._repr_html_())
    result = {"output_type": "execute_result", "execution_count": number}
    return {**result, "data": data, "metadata": {}}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(json.dumps(run_cells(target), indent=1) + "\n", encoding="utf-8")
