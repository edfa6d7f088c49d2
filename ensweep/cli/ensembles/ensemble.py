"""`ensweep ensemble`: choose the runs to combine for each task, and score them."""

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, EnsembleOptions
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import show_progress

if TYPE_CHECKING:
    from ensemble.candidates.pool import Pool
    from ensemble.choice.request import Request
    from ensemble.choice.result import EnsembleChoice


@example("ensweep ensemble reviews --max-members 4 --prefer balanced")
def ensemble(
    options: EnsembleOptions,
    place: Place,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            metavar="[TASK=]FILE",
            help="Dev predictions of a model from elsewhere, as one more candidate. Repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the best single run, the simple average and the selective ensemble of each task on
    held-out rows."""
    from ensemble.choice.request import choose_ensemble
    from ensemble.choice.result import Method
    from ensemble.inference.speed import milliseconds_of
    from ensemble.presentation.choice_json import describe
    from ensemble.presentation.words import verdict
    from ensweep.cli.ensembles.choice import print_choice

    request = options.request(place.tracking, add)
    with show_progress():
        pool, choice = choose_ensemble(place.tracking, request, place.cache)
    content = describe(request, pool, choice)
    milliseconds = milliseconds_of(choice.candidates(Method.SELECTIVE))
    if as_json:
        print_json(**content, milliseconds=milliseconds)
    else:
        print_choice(request, pool, choice)
    _log_and_pin(place, request, content, pool, choice, milliseconds)
    if not as_json:
        added = [each.label for each in choice.candidates(Method.SELECTIVE) if each.is_added]
        if added:
            typer.echo(f"ensweep export will choose without {', '.join(added)}", err=True)
        place.say_next(*_export_command(request))
        typer.echo(verdict(choice, milliseconds))


def _log_and_pin(
    place: Place,
    request: "Request",
    content: dict[str, Any],
    pool: "Pool",
    choice: "EnsembleChoice",
    milliseconds: float | None,
) -> None:
    """Log the choice in MLflow, pin its members in the sweeps' folders and draw pictures; a failure
    is a warning."""
    from ensemble.choice.pins import FOLDER, pin_members
    from ensemble.choice.result import Method as Choice
    from ensemble.choice.tracking import log, logged_pictures, write_pictures
    from ensemble.presentation.figures import pictures
    from mlflow_setup.errors import EnsweepError
    from mlflow_setup.filesystem.paths import safe_name

    for problem in pin_members(choice.candidates(Choice.SELECTIVE)):
        typer.echo(f"not pinned for ensweep gc: {problem}", err=True)
    draw = cache(partial(pictures, pool, choice))  # takes a second or two, so only when needed
    try:
        run_id, is_new = log(place.tracking, request, content, pool, choice, draw, milliseconds)
        images = draw() if is_new else logged_pictures(place.tracking, run_id, place.cache)
        message = f"{'logged as' if is_new else 'logged before as'} MLflow run {run_id}"
    except EnsweepError as error:
        images, message = draw(), f"not logged: {error}"
    folders = (place.storage / safe_name(name, "sweep") for name in request.sweeps)
    for sweep in filter(Path.is_dir, folders):
        try:
            write_pictures(sweep / FOLDER, images)
            if images:
                typer.echo(f"pictures: {sweep / FOLDER}", err=True)
        except OSError as error:
            typer.echo(f"no pictures: {sweep / FOLDER}: {error.strerror}", err=True)
    typer.echo(message, err=True)


def _export_command(request: "Request") -> list[str]:
    """The arguments of the command that exports this choice."""
    words = ["export", *request.sweeps]
    for name, value in request.to_params().items():
        if name != "add":
            values = value if isinstance(value, list) else [value]
            for each in values:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return [*words, "--output", f"{'-'.join(request.sweeps) or 'listed'}-bundle"]
