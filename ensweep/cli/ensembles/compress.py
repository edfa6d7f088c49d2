"""`ensweep compress`: an ensemble distilled into one model, and what is lost.

ensweep compress bundle --data-dir data --output small train.num_epochs=3
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.options import AsJson, Folder, Storage, TrackingUri
from ensweep.cli.shared.output import print_table
from ensweep.cli.shared.signals import StopOnSignal
from ensweep.cli.training.train import Overrides

if TYPE_CHECKING:
    from mlflow_setup.schema import EpochRecord


def compress(
    folder: Folder,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder with the tasks' files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new bundle's folder.")],
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Of the student; default: as the bundle's best member."),
    ] = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Distil a bundle into one model. Run the same command again to go on after a stop."""
    from ensemble.distillation.compress import compress as run
    from ensemble.distillation.compress import student_of
    from mlflow_setup.schema import Outcome
    from mlflow_setup.tracking.store import resolve_tracking
    from trainable.config.constraints import settings_without_effect

    student = student_of(folder, data_dir, recipe, overrides or [])
    for warning in settings_without_effect(student.config):
        typer.echo(f"warning: {warning}", err=True)
    stop = StopOnSignal()

    def report(record: "EpochRecord") -> None:
        typer.echo(f"epoch {record.epoch}: overall {record.metrics['dev/overall']:.4f}", err=True)

    tracking = resolve_tracking(storage, tracking_uri)
    with stop:
        done = run(folder, output, student, storage, tracking, report, stop)
    if done.outcome.outcome is Outcome.STOPPED:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(stop.exit_code)
    if as_json:
        losses = {name: found.model_dump() for name, found in done.losses.items()}
        ensemble, own = map(asdict, done.footprints)
        content = {"schema_version": 1, "folder": str(output), "configuration": student.recipe}
        typer.echo(json.dumps({**content, "tasks": losses, "ensemble": ensemble, "student": own}))
        return
    rows = [
        [
            name,
            f"{found.ensemble:.4f}",
            f"{found.student:.4f}",
            f"{found.student - found.ensemble:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
        ]
        for name, found in done.losses.items()
    ]
    rows += [
        ["models to run", *(str(each.num_models) for each in done.footprints), ""],
        ["weights, MB", *(f"{each.megabytes:.1f}" for each in done.footprints), ""],
        [
            "s per 1,000 sentences",
            *(f"{each.seconds_per_1000:.2f}" for each in done.footprints),
            "",
        ],
    ]
    print_table(["", "ensemble", "student", "student less ensemble"], rows)
    typer.echo(f"{output}: 1 member, as {student.recipe}; dev, in-sample, 95 % intervals")
    typer.echo(f"next: ensweep evaluate {output} --data-dir DIR", err=True)
