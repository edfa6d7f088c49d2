"""`ensweep ui`, `sync`, `gc`: show the MLflow runs, bring them up to date, free disk space."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, SweepName
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import EnsweepError, NothingUsableError, PartialError
from mlflow_setup.text import there_are

if TYPE_CHECKING:
    from mlflow_setup.tracking.store import Tracking


@example("ensweep ui reviews --port 5001")
def ui(
    place: Place,
    sweep: SweepName = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Show the runs in MLflow's UI, opened at a sweep's trials. Ctrl-C ends it."""
    from mlflow_setup.tracking.ui_server import run_ui
    from mlflow_setup.uris import redact

    tracking = place.tracking
    if tracking.is_server:
        typer.echo("the tracking server has its own UI; open this in a browser:", err=True)
        typer.echo(f"{redact(tracking.uri).rstrip('/')}{_path(tracking, sweep)}")
        return
    address = f"http://{host}:{port}{_path(tracking, sweep)}"
    typer.echo(f"MLflow's UI (Ctrl-C ends it): {address}", err=True)
    run_ui(tracking, host, port)


def _path(tracking: "Tracking", sweep: str | None) -> str:
    """The path of the page with a sweep's trials, by default the latest sweep; "" if there is
    none."""
    from mlflow_setup.runs.query import latest_tracked_sweep, tracked_sweeps
    from mlflow_setup.tracking.ui_view import view_path

    if sweep is not None and sweep not in tracked_sweeps(tracking):
        others = there_are(sweep, tracked_sweeps(tracking))
        raise NothingUsableError(f"no sweep {sweep!r} is tracked here{others}")
    try:
        with tracking.errors():
            return view_path(tracking, sweep or latest_tracked_sweep(tracking))
    except EnsweepError:  # nothing is tracked yet, or the server cannot be reached
        return ""


@example("ensweep sync reviews")
def sync(place: Place, sweep: SweepName = None, as_json: AsJson = False) -> None:
    """Bring MLflow up to date with a sweep's folder, for example after an outage. Idempotent."""
    from search.driver.tracking import sync as bring_up
    from search.storage.sweep_folder import find_sweep

    folder = find_sweep(place.storage, sweep)
    place.tracking.check()
    num_trials, missed = len(folder.trial_folders()), bring_up(folder, place.tracking)
    num_there = num_trials - len(missed)
    if as_json:
        print_json(sweep=folder.name, num_trials=num_trials, num_tracked=num_there, missed=missed)
    else:
        typer.echo(f"{folder.name}: {num_there} of {num_trials} trials are in MLflow")
    if missed:
        raise PartialError(
            f"sweep {folder.name}: not in MLflow: {len(missed)} of {num_trials} trials\n  "
            + "\n  ".join(missed),
            fix=f"fix them, then run {place.command('sync', folder.name)} again",
        )


@example("ensweep gc reviews --dry-run")
def gc(
    place: Place,
    sweep: SweepName = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only show what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete files that are no longer needed: weights of weak pruned trials, checkpoints,
    leftovers."""
    from mlflow_setup.filesystem.lease import Lease, refusal
    from search.driver.tracking import sync as bring_up
    from search.storage.garbage import find_garbage
    from search.storage.stop_request import trainings
    from search.storage.sweep_folder import SWEEP_FILE, find_sweep

    folder = find_sweep(place.storage, sweep)
    with Lease(folder.path):
        for path, holder in trainings(folder).items():
            raise refusal(f"training {path.name}", holder)
        keep = folder.read().keep_pruned_top if (folder.path / SWEEP_FILE).exists() else 0
        garbage = find_garbage(folder, keep)
        for item in garbage:
            if not as_json:
                typer.echo(f"{item.num_bytes / 1e6:9.1f} MB  {item.path}  {item.why}")
            if not dry_run:
                item.remove()
        total = sum(item.num_bytes for item in garbage)
        if as_json:
            rows = [{**asdict(item), "path": str(item.path)} for item in garbage]
            print_json(sweep=folder.name, garbage=rows, num_bytes=total, is_deleted=not dry_run)
        else:
            typer.echo(f"{total / 1e6:9.1f} MB  {'would be' if dry_run else 'were'} deleted")
        if garbage and not dry_run:  # update the tags with the epochs that have weights
            bring_up(folder, place.tracking, whole=False)
