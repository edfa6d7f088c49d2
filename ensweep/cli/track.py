"""`ensweep ui`, `ensweep sync`: look at the tracked runs, and bring them up to date.

ensweep sync && ensweep ui
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.options import Storage, SweepName, TrackingUri
from mlflow_setup.errors import EnsweepError, NothingUsableError, PartialError

if TYPE_CHECKING:
    from mlflow_setup.mirror import Mirror


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the command line."""
    app.command("ui")(ui)
    app.command("sync")(sync)


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the tracked runs in MLflow's UI. Ctrl-C ends it."""
    from mlflow_setup.server import run_ui
    from mlflow_setup.tracking import redact, resolve_tracking

    tracking = resolve_tracking(storage, tracking_uri)
    if tracking.is_server:
        typer.echo("a tracking server shows its runs itself; open this in a browser:", err=True)
        typer.echo(redact(tracking.uri))
        return
    typer.echo(f"MLflow's UI: http://{host}:{port} (Ctrl-C ends it)", err=True)
    run_ui(tracking, host, port)


def sync(
    sweep: SweepName = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Bring MLflow up to a sweep's folder, after an outage say. Run it as often as you like."""
    from mlflow_setup.mirror import Mirror
    from mlflow_setup.schema import CONFIG_ARTIFACT
    from mlflow_setup.tracking import resolve_tracking

    folder = _sweep_folder(storage, sweep)
    tracking = resolve_tracking(storage, tracking_uri)
    tracking.check()
    mirror = Mirror(tracking, folder.name)
    trials = sorted(path.parent for path in folder.glob(f"trials/*/{CONFIG_ARTIFACT}"))
    missed = _project(mirror, trials)
    typer.echo(f"{folder.name}: {len(trials) - len(missed)} of {len(trials)} trials are in MLflow")
    if missed:
        raise PartialError(
            f"sweep {folder.name}: not in MLflow: {len(missed)} of {len(trials)} trials\n  "
            + "\n  ".join(missed),
            fix=f"mend them, then run ensweep sync {folder.name} again",
        )


def _sweep_folder(storage: Path, sweep: str | None) -> Path:
    """`<storage>/<sweep>`, or the sweep whose newest trial is the newest of all."""
    from mlflow_setup.files import safe_name

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


def _project(mirror: "Mirror", trials: list[Path]) -> list[str]:
    """Project each folder; what went wrong, by trial."""
    from trainable.record import TrialFolder

    before = mirror.parent_status()
    missed, outcomes = [], []
    for path in trials:
        try:
            snapshot = TrialFolder(path).snapshot()
            mirror.project(snapshot)
        except (EnsweepError, OSError) as error:
            missed.append(f"{path.name}: {error}")
        else:
            outcomes.append(snapshot.outcome)
    if before not in (None, "RUNNING"):  # nobody drives the sweep: nothing of it is left running
        mirror.finish(before)
    elif outcomes and not missed and all(outcomes):
        stopped = [found for found in outcomes if found and not found.outcome.is_terminal]
        mirror.finish("KILLED" if stopped else "FINISHED")
    return missed
