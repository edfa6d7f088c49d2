"""`ensweep report`: which settings of a sweep mattered, in a table and in pictures.

ensweep report --json
"""

import json
from pathlib import Path

import typer

from ensweep.cli.shared.options import AsJson, Storage, SweepName, TrackingUri
from ensweep.cli.shared.output import print_table

FOLDER = "report"


def report(
    sweep_name: SweepName = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Which settings mattered: importances by two methods, and pictures of the search."""
    from dataclasses import asdict

    from mlflow_setup.runs.ensemble_runs import log_to_sweep
    from mlflow_setup.tracking.store import resolve_tracking
    from search.reports.importances import read_insight, write_pictures
    from search.storage.history import SweepFolder, latest_sweep

    folder = SweepFolder(storage, sweep_name or latest_sweep(storage))
    insight = read_insight(folder)
    written = write_pictures(insight, folder.path / FOLDER)
    log_to_sweep(resolve_tracking(storage, tracking_uri), folder.name, written, FOLDER)
    if as_json:
        content = {"sweep": folder.name, "num_finished": insight.num_finished}
        content |= {"importances": insight.importances, "folder": str(folder.path / FOLDER)}
        content |= {"audit": None if insight.audit is None else asdict(insight.audit)}
        typer.echo(json.dumps({"schema_version": 1, **content}))
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
