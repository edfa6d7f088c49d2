"""`ensweep ui`, `sync`, `gc`: look at the tracked runs, bring them up to date, make room.

ensweep sync && ensweep ui
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.options import Place, SweepName
from mlflow_setup.errors import (
    EnsweepError,
    IntegrityError,
    NothingUsableError,
    PartialError,
)

if TYPE_CHECKING:
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.tracking.store import Tracking
    from search.config.sweep_config import SweepConfig
    from search.storage.history import SweepFolder


def ui(
    place: Place,
    sweep: SweepName = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Show the tracked runs in MLflow's UI, a sweep's trials first. Ctrl-C ends it."""
    from mlflow_setup.tracking.ui_server import run_ui
    from mlflow_setup.uris import redact

    tracking = place.tracking
    if tracking.is_server:
        typer.echo("a tracking server shows its runs itself; open this in a browser:", err=True)
        typer.echo(f"{redact(tracking.uri).rstrip('/')}{_path(tracking, sweep)}")
        return
    address = f"http://{host}:{port}{_path(tracking, sweep)}"
    typer.echo(f"MLflow's UI (Ctrl-C ends it): {address}", err=True)
    run_ui(tracking, host, port)


def _path(tracking: "Tracking", sweep: str | None) -> str:
    """Of the page with the trials of the sweep, the latest one unless named; "" without any."""
    from mlflow_setup.runs.query import latest_sweep, sweep_names
    from mlflow_setup.tracking.ui_view import view_path

    if sweep is not None and sweep not in sweep_names(tracking):
        raise NothingUsableError(f"no sweep {sweep!r} is tracked at this place")
    try:
        with tracking.errors():
            return view_path(tracking, sweep or latest_sweep(tracking))
    except EnsweepError:  # nothing is tracked yet, or the server is away: it can say so itself
        return ""


def sync(place: Place, sweep: SweepName = None) -> None:
    """Bring MLflow up to a sweep's folder, after an outage say. Run it as often as you like."""
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.schema import CONFIG_ARTIFACT

    folder = _sweep_folder(place.storage, sweep)
    place.tracking.check()
    mirror = Mirror(place.tracking, folder.name)
    trials = sorted(path.parent for path in folder.glob(f"trials/*/{CONFIG_ARTIFACT}"))
    missed = _project(mirror, trials, folder)
    typer.echo(f"{folder.name}: {len(trials) - len(missed)} of {len(trials)} trials are in MLflow")
    if missed:
        raise PartialError(
            f"sweep {folder.name}: not in MLflow: {len(missed)} of {len(trials)} trials\n  "
            + "\n  ".join(missed),
            fix=f"mend them, then run ensweep sync {folder.name} again",
        )


def _sweep_folder(storage: Path, sweep: str | None) -> Path:
    """`<storage>/<sweep>`, or the sweep whose newest trial is the newest of all."""
    from mlflow_setup.filesystem.paths import safe_name

    if sweep is not None:
        folder = storage / safe_name(sweep, "sweep")
        if not (folder / "trials").is_dir():
            raise NothingUsableError(
                f"no sweep {sweep!r} in {storage}", fix="--storage names the folder with the sweeps"
            )
        return folder
    folders = [path.parent for path in storage.glob("*/trials") if path.is_dir()]
    if not folders:
        raise NothingUsableError(
            f"no sweep in {storage}", fix="--storage names the folder with the sweeps"
        )
    return max(folders, key=lambda folder: ((folder / "trials").stat().st_mtime_ns, folder.name))


def gc(
    place: Place,
    sweep: SweepName = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be deleted.")
    ] = False,
) -> None:
    """Delete what nothing needs any more: weights of weak pruned trials, checkpoints, leftovers."""
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.schema import CONFIG_ARTIFACT
    from search.storage.garbage import find_garbage
    from search.storage.history import SweepFolder
    from search.storage.lease import Lease

    path = _sweep_folder(place.storage, sweep)
    folder = SweepFolder(path.parent, path.name)
    with Lease(folder.path):
        garbage = find_garbage(folder, folder.read().keep_pruned_top)
        for item in garbage:
            typer.echo(f"{item.num_bytes / 1e6:9.1f} MB  {item.path}  {item.why}")
            if not dry_run:
                item.remove()
        total = sum(item.num_bytes for item in garbage) / 1e6
        typer.echo(f"{total:9.1f} MB  {'would be' if dry_run else 'were'} deleted")
        if garbage and not dry_run:  # the runs say which epochs have weights
            mirror = Mirror(place.tracking, folder.name)
            trials = sorted(path.parent for path in folder.path.glob(f"trials/*/{CONFIG_ARTIFACT}"))
            _project(mirror, trials, None)


def _project(mirror: "Mirror", trials: list[Path], folder: Path | None) -> list[str]:
    """Project each trial; what went wrong, by trial. In the end nothing is left running, unless
    somebody drives the sweep (in `folder`, if it is given)."""
    from search.storage.lease import living_driver
    from trainable.storage.trial_folder import TrialFolder

    before = mirror.parent_status()
    if before is None and folder is not None:
        _start(mirror, folder)
    missed, outcomes = [], []
    for path in trials:
        try:
            snapshot = TrialFolder(path).snapshot()
            mirror.project(snapshot)
        except (EnsweepError, OSError) as error:
            missed.append(f"{path.name}: {error}")
        else:
            outcomes.append(snapshot.outcome)
    if folder is not None and living_driver(folder) is not None:
        return missed  # of the trials that it has just begun there may be only a run
    has_ended = bool(outcomes) and all(found and found.outcome.is_terminal for found in outcomes)
    is_whole = has_ended and not missed and folder is not None and _is_every_trial(trials, folder)
    if before not in (None, "RUNNING") and not is_whole:  # it may have been stopped between trials
        mirror.finish(before)
    elif has_ended and not missed:
        mirror.finish("FINISHED")
    elif outcomes and (folder is not None or (not missed and all(outcomes))):
        mirror.finish("KILLED")
    return missed


def _start(mirror: "Mirror", path: Path) -> None:
    """Make the sweep's own run, with what its file says. A damaged file is `resume`'s to refuse."""
    from search.driver.tracking import what_is_tracked

    folder, sweep = _read(path)
    if sweep is not None:
        mirror.start(*what_is_tracked(folder, sweep))


def _is_every_trial(trials: list[Path], path: Path) -> bool:
    """Whether nothing more was to be tried."""
    _, sweep = _read(path)
    return sweep is not None and len(trials) >= sweep.search.num_samples


def _read(path: Path) -> "tuple[SweepFolder, SweepConfig | None]":
    """The sweep as its file says; None without a whole one."""
    from search.storage.history import SWEEP_FILE, SweepFolder

    folder = SweepFolder(path.parent, path.name)
    if (folder.path / SWEEP_FILE).is_file():
        with suppress(IntegrityError):
            return folder, folder.read()
    return folder, None
