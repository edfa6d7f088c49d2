"""Several sweeps side by side, as `ensweep leaderboard A B` prints them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ensweep.cli.shared.options import Place
from ensweep.cli.shared.output import print_json, print_table
from mlflow_setup.text import brief

if TYPE_CHECKING:
    from search.reports.comparison import Comparison, Side


def print_comparison(place: Place, names: Sequence[str], as_json: bool) -> None:
    """The settings that differ, the best of each, its time, and the paired difference.

    Raises:
        NothingUsableError, ConfigError: as `search.reports.comparison.compare`.
    """
    from search.reports.comparison import CAVEAT, compare
    from search.storage.sweep_folder import find_sweep

    found = compare([find_sweep(place.storage, name) for name in names])
    if as_json:
        print_json(sweeps=list(names), **found.to_json())
        return
    header = ["", *names]
    print_table(header, best_table(found))
    typer.echo()
    if found.settings:
        rows = [[key, *map(brief, values)] for key, values in found.settings.items()]
        print_table(["settings that differ", *names], rows)
    else:
        typer.echo("no setting differs")
    typer.echo(CAVEAT)


def best_table(found: "Comparison") -> list[list[str]]:
    """A row for each thing that is compared, a cell for each sweep."""

    def row(name: str, cells: Sequence[str]) -> list[str]:
        return [name, *cells]

    sides = found.sides
    tasks = list(dict.fromkeys(task for side in sides for task in side.scores))
    rows = [
        row("trials", [", ".join(f"{n} {how}" for how, n in s.outcomes.items()) for s in sides]),
        row("best trial", [f"{side.best_trial}@{side.best_epoch}" for side in sides]),
    ]
    for task in [*(task for task in tasks if task != "overall"), "overall"]:
        rows.append(row(task, [_score(side.scores.get(task)) for side in sides]))
    for task in tasks:
        gains = [gain[task].describe() if task in gain else "" for gain in found.gains]
        rows.append(row(f"difference in {task}", ["", *gains]))
    rows += [
        row("hours", [f"{side.hours:.3f}" for side in sides]),
        row("hours to its best", [f"{side.hours_to_best:.3f}" for side in sides]),
        row(f"best after {found.common_hours:.3f} h", [_at(side, found) for side in sides]),
        row("trial-hours", [f"{side.trial_hours:.2f}" for side in sides]),
    ]
    if any(side.gpu_hours for side in sides):
        rows.append(row("GPU-hours", [f"{side.gpu_hours:.2f}" for side in sides]))
    if any(side.usd for side in sides):
        rows.append(row("USD", [f"{side.usd:.2f}" for side in sides]))
    return rows


def _at(side: "Side", found: "Comparison") -> str:
    return _score(side.best_after(found.common_hours))


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
