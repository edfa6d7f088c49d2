"""`ensweep train`: train one configuration, as a tracked run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, DataDir, Overrides, RecipeName, as_overrides
from ensweep.cli.shared.output import print_json, warn_of_unused_settings
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import show_progress
from ensweep.cli.shared.signals import StopOnSignal
from mlflow_setup.errors import NothingUsableError, PartialError

if TYPE_CHECKING:
    from mlflow_setup.schema import EpochRecord
    from search.driver.training import Trained


@example("ensweep train b3 --data-dir data model.encoder=minilm model.pooling=mean optim.lr=3e-4")
def train(
    recipe: RecipeName,
    place: Place,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the run; default: that of the folder or recipe."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The run's folder; default: STORAGE/train/trials/NAME."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one configuration as a tracked run. After a stop, run the same command again to
    continue."""
    from mlflow_setup.filesystem.output import check_folder
    from mlflow_setup.schema import TRAININGS, Outcome
    from trainable.config.recipe import resolve
    from trainable.training.stages import total_epochs

    resolved = resolve(recipe, [*as_overrides({"data.dir": data_dir}), *(overrides or [])])
    warn_of_unused_settings(resolved.config)
    if output is not None and not output.is_dir():
        check_folder(output)

    from search.driver.training import default_folder, name_of, run_training

    run = name or name_of(output or Path(Path(resolved.recipe).stem))
    folder = output or default_folder(place.storage, run)
    stop, num_epochs = StopOnSignal(), total_epochs(resolved.config)

    def report(record: "EpochRecord") -> None:
        typer.echo(f"epoch {record.epoch}/{num_epochs}: {_scores(record.metrics)}", err=True)

    where = place.storage, place.tracking
    with stop, show_progress():
        done = run_training(resolved, run, folder, *where, report=report, stop=stop)
    _print(run, done, as_json)
    if done.outcome.outcome is Outcome.STOPPED:
        stop.leave()
    if done.outcome.outcome is not Outcome.FINISHED:
        raise typer.Exit(NothingUsableError.exit_code)
    if done.run_id is None:
        raise PartialError(f"MLflow has missed {run}", fix="run the same command again to send it")
    tasks = [name for name, task in resolved.config.task_records().items() if task.is_evaluated]
    members = [word for task in tasks for word in ("--runs", f"{task}={TRAININGS}/{run}")]
    place.say_next("leaderboard", TRAININGS)
    place.say_next("export", *members, "--output", f"{run}-bundle")


def _print(run: str, done: "Trained", as_json: bool) -> None:
    from mlflow_setup.filesystem.storage import storage_of
    from mlflow_setup.schema import best_epoch

    epochs, outcome = done.trial.epochs(), done.outcome
    folder = storage_of(done.trial.path).address(done.trial.path)
    best = best_epoch(epochs) if epochs else None
    if as_json:
        print_json(
            name=run,
            run_id=done.run_id,
            folder=folder,
            outcome=outcome.outcome,
            reason=outcome.reason,
            best_epoch=best and best.epoch,
            metrics=best.metrics if best else {},
        )
        return
    typer.echo(f"{outcome.outcome}: {outcome.reason}")
    if best is not None:
        typer.echo(f"best epoch {best.epoch}: {_scores(best.metrics)}")
    typer.echo(f"in {folder}")


def _scores(metrics: dict[str, float]) -> str:
    shown = {key: value for key, value in metrics.items() if not key.endswith("/loss")}
    return "  ".join(f"{key.removeprefix('dev/')} {value:.4f}" for key, value in shown.items())
