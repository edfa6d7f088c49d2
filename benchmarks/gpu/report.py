"""Print the tables of docs/performance.md from the results of `measure.py`.

python benchmarks/gpu/report.py results.json
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]


def report(facts: Facts) -> str:
    """The results as Markdown: machine, a table of loops for each encoder and batch size, profiles,
    concurrent trials."""
    machine = facts["machine"]
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in machine["rates"].items())
    parts = [
        f"{machine['device']}, torch {machine['torch']}, transformers {machine['transformers']}"
        + (" (a rehearsal on a CPU: no result)" if machine["is_rehearsal"] else "")
        + f". A large matrix product alone, in TFLOP/s: {rates}.",
        _cells(facts["cells"]),
        *map(_profile, facts["profiles"]),
        _trials(facts["trials"]),
        _left_out(facts["left_out"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(cells: Iterable[Facts]) -> str:
    head = ("encoder", "batch", "loop", "examples/s", "of the bf16 rate", "dev rows/s", "peak MiB")
    rows = [
        (
            *(cell["encoder"], cell["batch_size"], cell["loop"]),
            f"{cell['examples_per_second']:,.0f}",
            f"{cell['of_bf16_rate']:.1%}" if "of_bf16_rate" in cell else "",
            f"{cell['dev_rows_per_second']:,.0f}" if "dev_rows_per_second" in cell else "",
            f"{cell['peak_mib']:,.0f}",
        )
        for cell in cells
    ]
    return _table(head, rows)


def _profile(profile: Facts) -> str:
    title = (
        f"{profile['encoder']}, batch {profile['batch_size']}, bf16: a step of "
        f"{profile['ms_per_step']:.2f} ms by {profile['by']}"
    )
    rows = [
        (f"`{o['name']}`", f"{o['share']:.1%}", f"{o['calls']:.0f}") for o in profile["operations"]
    ]
    return f"{title}\n\n{_table(('operation', 'share', 'calls a step'), rows)}"


def _trials(trials: Iterable[Facts]) -> str:
    rows = [(t["count"], f"{t['examples_per_second']:,.0f}") for t in trials]
    return _table(("trials on one device", "examples/s of all"), rows) if rows else ""


def _left_out(left_out: Iterable[Facts]) -> str:
    keys = ("part", "encoder", "batch_size", "loop", "why")
    rows = [tuple(one.get(key, "") for key in keys) for one in left_out]
    head = ("not measured", "encoder", "batch", "loop", "why")
    return _table(head, rows) if rows else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
