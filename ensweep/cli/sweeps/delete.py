"""`ensweep delete`: delete a sweep's folder, MLflow runs and artifacts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.completion import sweeps_here
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import ConfigError, NothingUsableError, PartialError

if TYPE_CHECKING:
    from mlflow_setup.tracking.client import Run
    from search.storage.sweep_folder import SweepFolder


@example("ensweep delete reviews --dry-run", "ensweep delete reviews --yes")
def delete(
    sweep: Annotated[
        str,
        typer.Argument(metavar="SWEEP", help="Name of the sweep.", autocompletion=sweeps_here),
    ],
    place: Place,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only show what would be deleted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a sweep: its folder, its MLflow runs and their artifacts.

    Refused while the sweep is running, or if a registered model has a member from it.
    """
    from mlflow_setup.runs.deletion import delete_runs, models_of_sweep, runs_of_sweep
    from search.storage.sweep_folder import SweepFolder

    folder = SweepFolder(place.storage, sweep)
    runs = runs_of_sweep(place.tracking, sweep)
    _refuse_unknown(folder, runs)
    sizes = _sizes(folder, runs)
    if not as_json:
        for path, size in sizes.items():
            typer.echo(f"{size / 1e6:9.1f} MB  {path}")
        typer.echo(f"{len(runs):9} run(s) in MLflow")
    _refuse_used(folder, models_of_sweep(place.tracking, sweep))
    if not dry_run:
        _confirm(sweep, yes)
        folder.remove()
        left = delete_runs(place.tracking, sweep, runs)
    if as_json:
        content = {"num_runs": len(runs), "num_bytes": sum(sizes.values())}
        print_json(sweep=sweep, is_deleted=not dry_run, **content)
    else:
        total = sum(sizes.values()) / 1e6
        typer.echo(f"{total:9.1f} MB  {'would be' if dry_run else 'were'} deleted")
    if not dry_run and left:
        problem = "artifacts could not be deleted:\n  " + "\n  ".join(left)
        raise PartialError(problem, fix="delete them there")


def _refuse_unknown(folder: "SweepFolder", runs: "list[Run]") -> None:
    from mlflow_setup.text import there_are
    from search.storage.sweep_folder import SWEEP_FILE, sweep_names
    from trainable.storage.layout import TRIALS

    is_sweep = any((folder.path / own).exists() for own in (SWEEP_FILE, TRIALS))
    if not is_sweep and (folder.path.exists() or not runs):  # never delete another kind of folder
        others = there_are(folder.name, sweep_names(folder.path.parent))
        raise NothingUsableError(
            f"no sweep {folder.name!r} in {folder.path.parent}{others}",
            fix="name the folder with the sweeps by --storage",
        )


def _refuse_used(folder: "SweepFolder", models: list[str]) -> None:
    from mlflow_setup.filesystem.lease import refusal
    from search.storage.stop_request import drivers

    for path, holder in drivers(folder).items():
        raise refusal(f"{'sweep' if path == folder.path else 'training'} {path.name}", holder)
    if models:
        raise ConfigError(
            f"sweep {folder.name}: registered models have members from it: {', '.join(models)}",
            fix="delete those versions in MLflow first (ensweep ui), or keep the sweep",
        )


def _sizes(folder: "SweepFolder", runs: "list[Run]") -> dict[Path, int]:
    """The sizes in bytes of the sweep's local folders."""
    from mlflow_setup.filesystem.storage import disk_bytes
    from mlflow_setup.runs.deletion import local_artifacts

    places = [folder.path, *(path for run in runs if (path := local_artifacts(run)) is not None)]
    sizes = {path: disk_bytes(path) for path in places if path.exists()}
    return {path: size for path, size in sizes.items() if size or path == folder.path}


def _confirm(sweep: str, is_sure: bool) -> None:
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            f"sweep {sweep}: no terminal to ask for confirmation", fix="add --yes to delete it"
        )
    typer.confirm(f"delete sweep {sweep}?", abort=True, err=True)
