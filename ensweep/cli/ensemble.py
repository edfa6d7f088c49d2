"""`ensweep ensemble`: which runs to combine for each task, and what that is worth.

ensweep ensemble demo --storage runs
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.options import (
    AsJson,
    Listed,
    MaxCost,
    MaxMembers,
    Method,
    Storage,
    SweepNames,
    TrackingUri,
    listed_runs,
)

if TYPE_CHECKING:
    from ensemble.candidates import Pool
    from ensemble.choice import EnsembleChoice
    from mlflow_setup.tracking import Tracking


def register(app: typer.Typer) -> None:
    """Add this noun's command to the command line."""
    app.command("ensemble")(ensemble)


def ensemble(
    sweeps: SweepNames = None,
    method: Method = None,
    max_members: MaxMembers = None,
    max_cost: MaxCost = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            metavar="[TASK=]FILE",
            help="Predictions of a model that is not tracked, for a task's dev rows. Repeatable.",
        ),
    ] = None,
    runs: Listed = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Best single run, simple average and selective ensemble of each task, honestly judged."""
    from ensemble.choose import choose_ensemble, listed_ensemble
    from ensemble.record import describe
    from ensweep.cli.choice import print_choice
    from mlflow_setup.runs import latest_sweep
    from mlflow_setup.tracking import resolve_tracking

    tracking = resolve_tracking(storage, tracking_uri)
    choosing = {"method": method, "max_members": max_members, "max_cost": max_cost, "add": add}
    listed = listed_runs(runs, {f"--{n.replace('_', '-')}": v for n, v in choosing.items()})
    names = list(dict.fromkeys(sweeps or ([] if listed else [latest_sweep(tracking)])))
    cache = storage / ".cache"
    if listed:
        pool, choice = listed_ensemble(tracking, names, cache, listed)
    else:
        cost = max_cost and max_cost * 1e6
        pool, choice = choose_ensemble(
            tracking, names, cache, method, max_members, cost, added=add or ()
        )
    content = describe(names, pool, choice)
    asked = {**choosing, "runs": runs}
    if as_json:
        typer.echo(json.dumps(content, allow_nan=False))
    else:
        print_choice(names, pool, choice)
    _keep(tracking, storage, content, asked, pool, choice)
    if not as_json:
        typer.echo(f"next: {_next(names, runs, choice)}", err=True)


def _keep(
    tracking: "Tracking",
    storage: Path,
    content: dict[str, Any],
    asked: dict[str, Any],
    pool: "Pool",
    choice: "EnsembleChoice",
) -> None:
    """In MLflow and in the sweeps' folders; what cannot be written is said, and is no error."""
    from ensemble.choice import Method as Choice
    from ensemble.figures import pictures
    from ensemble.notes import FOLDER, note_members
    from ensemble.record import log, write_pictures
    from mlflow_setup.errors import EnsweepError
    from mlflow_setup.files import safe_name

    images = pictures(pool, choice)
    for problem in note_members(choice.candidates(Choice.SELECTIVE)):
        typer.echo(f"not noted for ensweep gc: {problem}", err=True)
    folders = (storage / safe_name(name, "sweep") for name in content["sweeps"])
    for sweep in filter(Path.is_dir, folders):
        try:
            write_pictures(sweep / FOLDER, images)
            typer.echo(f"pictures: {sweep / FOLDER}", err=True)
        except OSError as error:
            typer.echo(f"no pictures: {sweep / FOLDER}: {error.strerror}", err=True)
    try:
        run_id, is_new = log(tracking, content, asked, choice, images)
    except EnsweepError as error:
        typer.echo(f"not logged: {error.problem}", err=True)
    else:
        typer.echo(f"{'logged as' if is_new else 'logged before as'} MLflow run {run_id}", err=True)


def _next(names: list[str], runs: list[str] | None, choice: "EnsembleChoice") -> str:
    """The command that exports, and whom it will do without."""
    from ensemble.choice import Method as Choice

    words = [*names, *(f"--runs {text}" for text in runs or ())]
    command = f"ensweep export {' '.join(words)} --output DIR"
    added = [c.label for c in choice.candidates(Choice.SELECTIVE) if c.is_added]
    return f"{command}, which chooses without {', '.join(added)}" if added else command
