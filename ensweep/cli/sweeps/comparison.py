"""Print a comparison of several sweeps, for `ensweep leaderboard A B`."""

from collections.abc import Sequence

import typer

from ensweep.cli.shared.output import print_json, print_table
from ensweep.cli.shared.place import Place
from mlflow_setup.text import brief


def print_comparison(place: Place, names: Sequence[str], as_json: bool) -> None:
    """Print each sweep's best trial and time, their paired difference, and settings that differ.

    Raises:
        NothingUsableError, ConfigError: as `search.reports.comparison.compare`.
    """
    from search.reports.comparison import CAVEAT, compare
    from search.reports.comparison_report import best_rows
    from search.storage.sweep_folder import find_sweep

    comparison = compare([find_sweep(place.storage, name) for name in names])
    if as_json:
        print_json(sweeps=list(names), **comparison.to_json())
        return
    print_table(["", *names], best_rows(comparison))
    typer.echo()
    if comparison.settings:
        rows = [[key, *map(brief, values)] for key, values in comparison.settings.items()]
        print_table(["settings that differ", *names], rows)
    else:
        typer.echo("no setting differs")
    typer.echo(CAVEAT)
