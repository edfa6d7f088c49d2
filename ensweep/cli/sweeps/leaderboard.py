"""`ensweep leaderboard`: the trials of a sweep, the best first.

ensweep leaderboard --json
"""

from typing import TYPE_CHECKING

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, Place, SweepName
from ensweep.cli.shared.output import print_json, print_table
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.text import brief

if TYPE_CHECKING:
    from search.reports.leaderboard import Row


@example("ensweep leaderboard reviews --json")
def leaderboard(place: Place, sweep_name: SweepName = None, as_json: AsJson = False) -> None:
    """The trials of a sweep, the best first, with what they differ in."""
    from mlflow_setup.runs.query import find_trials, latest_tracked_sweep
    from search.reports.leaderboard import leaderboard as rows_of

    chosen = sweep_name or latest_tracked_sweep(place.tracking)
    rows = rows_of(find_trials(place.tracking, chosen))
    if not rows:
        raise NothingUsableError(
            f"no trial of a sweep {chosen!r} is tracked",
            fix="ensweep leaderboard without a name shows the latest sweep",
        )
    if as_json:
        print_json(sweep=chosen, trials=[row.to_json() for row in rows])
        return
    typer.echo(f"sweep {chosen}", err=True)
    print_table(*_leaderboard_table(rows))


def _leaderboard_table(rows: "list[Row]") -> tuple[list[str], list[list[str]]]:
    metrics = sorted({name for row in rows for name in row.metrics})
    params = list(dict.fromkeys(name for row in rows for name in row.params))
    header = ["#", "trial", "recipe", "outcome", "epochs", "overall"]
    header += [name.split("/")[1] for name in metrics] + params
    table = [
        [
            "" if row.rank is None else str(row.rank),
            row.trial,
            row.recipe,
            row.outcome,
            "" if row.epochs is None else str(row.epochs),
            _number(row.overall),
            *(_number(row.metrics.get(name)) for name in metrics),
            *(brief(row.params.get(name, "")) for name in params),
        ]
        for row in rows
    ]
    return header, table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
