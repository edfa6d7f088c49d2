"""`ensweep pretrain`: masked language modelling on the tasks' sentences, before fine-tuning."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, DataDir, Overrides, RecipeName, as_overrides
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.progress import show_progress
from ensweep.cli.shared.signals import StopOnSignal
from mlflow_setup.text import duration

if TYPE_CHECKING:
    from trainable.pretraining.masked_lm import Progress


@example("ensweep pretrain b3 --data-dir data --output encoders/mine model.encoder=minilm")
def pretrain(
    recipe: RecipeName,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the new encoder, for model.encoder.")
    ],
    overrides: Overrides = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Pre-train the recipe's encoder on the tasks' text. After a stop, run it again to continue."""
    from mlflow_setup.filesystem.modes import users_mask
    from trainable.config.recipe import resolve
    from trainable.pretraining.pretrain import pretrain as run

    given = [*as_overrides({"data.dir": data_dir}), *(overrides or [])]
    config = resolve(recipe, given).config
    stop = StopOnSignal()

    def report(progress: "Progress") -> None:
        step, loss = progress.held_out[-1]
        shown = f"step {step}/{progress.num_steps}: loss on held-out text {loss:.4f}"
        typer.echo(f"{shown}, {duration(progress.seconds)}", err=True)

    with stop, show_progress():
        done = run(config, output, report=report, stop=stop, mask=users_mask())
    if not done.is_done:
        stop.leave()
    if as_json:
        content = {"folder": str(output), "held_out": done.held_out, "seconds": done.seconds}
        sizes = {"num_steps": done.num_steps, "num_sentences": done.num_sentences}
        print_json(**content, **sizes)
        return
    first, last = done.held_out[0][1], done.held_out[-1][1]
    typer.echo(f"{done.num_steps} steps on {done.num_sentences} sentences")
    typer.echo(f"loss on held-out text: {first:.4f} -> {last:.4f}")
    typer.echo(f"in {output}; use it with model.encoder={output} pretrain.enabled=false")
