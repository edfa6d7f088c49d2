"""`ensweep train`, `ensweep config show`, `ensweep recipes`: one trial and what configures it.

ensweep train b3 --data-dir data model.encoder=minilm model.pooling=mean train.num_epochs=2
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import (
    AsJson,
    DataDir,
    Overrides,
    Place,
    RecipeName,
    as_overrides,
)
from ensweep.cli.shared.output import (
    print_json,
    warn_of_idle_settings,
)
from ensweep.cli.shared.signals import StopOnSignal
from mlflow_setup.errors import NothingUsableError

if TYPE_CHECKING:
    from mlflow_setup.schema import EpochRecord


@example("ensweep train b3 --data-dir data model.encoder=minilm model.pooling=mean optim.lr=3e-4")
def train(
    recipe: RecipeName,
    place: Place,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The trial's folder; default: STORAGE/train/RECIPE."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one configuration. Run the same command again to go on after a stop."""
    from mlflow_setup.filesystem.output import check_folder
    from mlflow_setup.schema import Identity, Outcome, best_epoch
    from trainable.config.recipe import resolve
    from trainable.storage.layout import SHARED
    from trainable.storage.trial_folder import TrialFolder
    from trainable.training.stages import total_epochs
    from trainable.training.train import train as run

    resolved = resolve(recipe, [*as_overrides({"data.dir": data_dir}), *(overrides or [])])
    warn_of_idle_settings(resolved.config)
    folder = output or place.storage / "train" / Path(resolved.recipe).stem
    if output is not None and not output.is_dir():
        check_folder(output)
    shared = place.storage / SHARED
    identity = Identity(folder.name, None, resolved.recipe, resolved.origin)
    stop = StopOnSignal()
    num_epochs = total_epochs(resolved.config)

    def report(record: "EpochRecord") -> None:
        typer.echo(f"epoch {record.epoch}/{num_epochs}: {_scores(record.metrics)}", err=True)

    if resolved.config.distill.enabled:
        from ensemble.distillation.teachers import teach

        teach(resolved.config, shared, place.tracking)
    with stop:
        outcome = run(
            resolved.config, folder, identity=identity, report=report, stop=stop, shared=shared
        )
    epochs = TrialFolder(folder).epochs()
    best = best_epoch(epochs) if epochs else None
    if as_json:
        print_json(
            folder=str(folder),
            outcome=outcome.outcome,
            reason=outcome.reason,
            best_epoch=best and best.epoch,
            metrics=best.metrics if best else {},
        )
    else:
        typer.echo(f"{outcome.outcome}: {outcome.reason}")
        if best is not None:
            typer.echo(f"best epoch {best.epoch}: {_scores(best.metrics)}")
        typer.echo(f"in {folder}")
    if outcome.outcome is Outcome.STOPPED:
        stop.leave()
    if outcome.outcome is not Outcome.FINISHED:
        raise typer.Exit(NothingUsableError.exit_code)


def _scores(metrics: dict[str, float]) -> str:
    shown = {key: value for key, value in metrics.items() if not key.endswith("/loss")}
    return "  ".join(f"{key.removeprefix('dev/')} {value:.4f}" for key, value in shown.items())
