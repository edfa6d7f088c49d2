"""`ensweep compress`: distil an ensemble into one model, and measure the change in scores."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, Bundle, DataDirNeeded, Overrides
from ensweep.cli.shared.output import print_json, print_table, say_next, warn_of_unused_settings
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import show_progress
from ensweep.cli.shared.signals import StopOnSignal

if TYPE_CHECKING:
    from mlflow_setup.schema import EpochRecord


@example("ensweep compress bundle --data-dir data --output small train.num_epochs=3")
def compress(
    folder: Bundle,
    data_dir: DataDirNeeded,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new bundle's folder.")],
    place: Place,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="The student's recipe; default: that of the best member."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Distil a bundle into one model. After a stop, run the same command again to continue."""
    from ensemble.distillation.compress import compress as run
    from ensemble.distillation.compress import student_of
    from mlflow_setup.schema import Outcome

    student = student_of(folder, data_dir, recipe, overrides or [])
    warn_of_unused_settings(student.config)
    stop = StopOnSignal()

    def report(record: "EpochRecord") -> None:
        typer.echo(f"epoch {record.epoch}: overall {record.metrics['dev/overall']:.4f}", err=True)

    with stop, show_progress():
        done = run(folder, output, student, place.storage, place.tracking, report, stop)
    if done.outcome.outcome is Outcome.STOPPED:
        stop.leave()
    if as_json:
        losses = {name: loss.model_dump() for name, loss in done.losses.items()}
        ensemble, own = map(asdict, done.footprints)
        facts = {"folder": str(output), "configuration": student.recipe, "tasks": losses}
        print_json(**facts, ensemble=ensemble, student=own)
        return
    rows = []
    for name, loss in done.losses.items():
        change = f"{loss.student - loss.ensemble:+.4f} [{loss.low:+.4f}, {loss.high:+.4f}]"
        rows.append([name, f"{loss.ensemble:.4f}", f"{loss.student:.4f}", change])
    sizes = done.footprints
    rows += [
        ["models to run", *(str(each.num_models) for each in sizes), ""],
        ["weights, MB", *(f"{each.megabytes:.1f}" for each in sizes), ""],
        ["s per 1,000 sentences", *(f"{each.seconds_per_1000:.2f}" for each in sizes), ""],
    ]
    print_table(["", "ensemble", "student", "student minus ensemble"], rows)
    typer.echo(f"{output}: 1 member, as {student.recipe}; dev, in-sample, 95 % intervals")
    say_next("evaluate", str(output), "--data-dir", str(data_dir))
