"""`ensweep report`: which settings of a sweep mattered, in a table and in pictures.

ensweep report --json
"""

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, Place, SweepName
from ensweep.cli.shared.output import print_json, print_table

FOLDER = "report"


@example("ensweep report reviews")
def report(place: Place, sweep_name: SweepName = None, as_json: AsJson = False) -> None:
    """Which settings mattered: importances by two methods, and pictures of the search."""
    from dataclasses import asdict

    from mlflow_setup.runs.ensemble_runs import log_to_sweep
    from search.reports.importances import read_insight, write_pictures
    from search.storage.sweep_folder import find_sweep

    folder = find_sweep(place.storage, sweep_name)
    insight = read_insight(folder)
    written = write_pictures(insight, folder.path / FOLDER)
    log_to_sweep(place.tracking, folder.name, written, FOLDER)
    if as_json:
        content = {"sweep": folder.name, "num_finished": insight.num_finished}
        content |= {"importances": insight.importances, "folder": str(folder.path / FOLDER)}
        content |= {"audit": None if insight.audit is None else asdict(insight.audit)}
        print_json(**content)
        return
    methods = list(next(iter(insight.importances.values())))
    rows = [
        [key, *("" if found[name] is None else f"{found[name]:.3f}" for name in methods)]
        for key, found in insight.importances.items()
    ]
    print_table(["setting", *methods], rows)
    if insight.audit is not None:
        typer.echo(insight.audit.describe())
    typer.echo(f"of {insight.num_finished} finished trials; pictures: {folder.path / FOLDER}")
