"""`ensweep ensemble`: the runs to combine for each task, and their score."""

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, AskedEnsemble
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import shown

if TYPE_CHECKING:
    from ensemble.candidates.pool import Pool
    from ensemble.choice.request import Request
    from ensemble.choice.result import EnsembleChoice


@example("ensweep ensemble reviews --max-members 4 --prefer balanced")
def ensemble(
    asked: AskedEnsemble,
    place: Place,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            metavar="[TASK=]FILE",
            help="Predictions of a model that is not tracked, for a task's dev rows. Repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Best single run, simple average and selective ensemble of each task, honestly judged."""
    from ensemble.choice.request import choose_ensemble
    from ensemble.choice.result import Method
    from ensemble.inference.speed import milliseconds_of
    from ensemble.presentation.choice_json import describe
    from ensemble.presentation.words import verdict
    from ensweep.cli.ensembles.choice import print_choice

    request = asked.request(place.tracking, add)
    with shown():
        pool, choice = choose_ensemble(place.tracking, request, place.cache)
    content = describe(request, pool, choice)
    milliseconds = milliseconds_of(choice.candidates(Method.SELECTIVE))
    if as_json:
        print_json(**content, milliseconds=milliseconds)
    else:
        print_choice(request, pool, choice)
    _keep(place, request, content, pool, choice, milliseconds)
    if not as_json:
        added = [each.label for each in choice.candidates(Method.SELECTIVE) if each.is_added]
        if added:
            typer.echo(f"an export chooses without {', '.join(added)}", err=True)
        place.say_next(*_next(request))
        typer.echo(verdict(choice, milliseconds))


def _keep(
    place: Place,
    request: "Request",
    content: dict[str, Any],
    pool: "Pool",
    choice: "EnsembleChoice",
    milliseconds: float | None,
) -> None:
    """Log the choice in MLflow and pin it in the sweeps' folders; a failure is a warning."""
    from ensemble.choice.pins import FOLDER, pin_members
    from ensemble.choice.result import Method as Choice
    from ensemble.choice.tracking import log, logged_pictures, write_pictures
    from ensemble.presentation.figures import pictures
    from mlflow_setup.errors import EnsweepError
    from mlflow_setup.filesystem.paths import safe_name

    for problem in pin_members(choice.candidates(Choice.SELECTIVE)):
        typer.echo(f"not pinned for ensweep gc: {problem}", err=True)
    draw = cache(partial(pictures, pool, choice))  # a second or two: where it is not logged yet
    try:
        run_id, is_new = log(place.tracking, request, content, pool, choice, draw, milliseconds)
        images = draw() if is_new else logged_pictures(place.tracking, run_id, place.cache)
        said = f"{'logged as' if is_new else 'logged before as'} MLflow run {run_id}"
    except EnsweepError as error:
        images, said = draw(), f"not logged: {error}"
    folders = (place.storage / safe_name(name, "sweep") for name in request.sweeps)
    for sweep in filter(Path.is_dir, folders):
        try:
            write_pictures(sweep / FOLDER, images)
            if images:
                typer.echo(f"pictures: {sweep / FOLDER}", err=True)
        except OSError as error:
            typer.echo(f"no pictures: {sweep / FOLDER}: {error.strerror}", err=True)
    typer.echo(said, err=True)


def _next(request: "Request") -> list[str]:
    """The words of the command that exports."""
    words = ["export", *request.sweeps]
    for name, value in request.to_params().items():
        if name != "add":
            values = value if isinstance(value, list) else [value]
            for each in values:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return [*words, "--output", f"{'-'.join(request.sweeps) or 'listed'}-bundle"]
