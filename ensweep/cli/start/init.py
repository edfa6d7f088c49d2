"""`ensweep init`: write a commented recipe and sweep for the user's data."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_json
from ensweep.cli.training.importing import Corrections, Place, show_found

if TYPE_CHECKING:
    from trainable.config.tasks import Task

DATA, RECIPE, SWEEP = "data", "recipe.yaml", "sweep.yaml"

_RECIPE = """\
# How one model is trained. `ensweep settings KEY` says what a key takes;
# `ensweep train {recipe}` trains it.
description: {names}, heads first and then the encoder with them
extends: lp-ft
data.dir: {folder}  # relative paths are relative to this file
data.tasks: {tasks}
model.encoder: minilm  # packaged, for a CPU; or a name of the hub: bert-base-uncased
train.num_epochs: 3  # over all training rows, once the heads are trained
batching.batch_size: 32  # examples a step
{ranking}
# The tasks, as detected. `ensweep data check DIR --recipe THIS` checks a change.
tasks:
{declared}
"""
_NOT_RANKED = "loss.mnr: {enabled: false, weight: 1.0}  # no scored pairs to rank\n"
_SWEEP = """\
# The search. The first trials train only heads, in seconds; later ones continue from the best.
description: {names}, 12 trials
recipe: {recipe}
space:
  optim.lr: {{type: float, low: 2e-5, high: 5e-4, log: true}}  # of the encoder
  probe.lr: {{type: float, low: 5e-4, high: 1e-2, log: true}}  # of the heads, while only they train
  model.fcn_size: {{type: categorical, choices: [128, 256]}}  # width of the shared layers
  model.head_dropout: {{type: float, low: 0.0, high: 0.4}}
  seed: {{type: int, low: 0, high: 4}}
first_trials: [{recipe}]
search: {{num_samples: 12, num_probes: 8, num_startup_trials: 4}}
scheduler: {{name: halving, grace_period: 1, reduction_factor: 2}}  # the worse half stops early
"""


@example("ensweep init reviews.csv --output mine", "ensweep init data --output mine")
def init(
    place: Place,
    corrections: Corrections,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the new files.")],
    as_json: AsJson = False,
) -> None:
    """Write a commented recipe and sweep for your data: a folder that `data import` wrote, or
    anything that it takes, which is imported first."""
    from mlflow_setup.filesystem.atomic import write_atomic
    from mlflow_setup.filesystem.modes import users_mask
    from mlflow_setup.filesystem.output import check_folder, make_folder
    from trainable.config.recipe import data_tasks
    from trainable.config.tasks import Task

    check_folder(output)
    folder, mask = place, users_mask()
    tasks = {name: Task(**declared) for name, declared in data_tasks(folder).items()}
    if not tasks:
        planned = corrections.find(place)
        show_found(planned)
        folder, tasks = str(output / DATA), {planned.name: planned.task}
        make_folder(output)
        planned.write(Path(folder))
    make_folder(output)
    write_atomic(output / RECIPE, recipe_text(tasks, folder, output / RECIPE), mask)
    write_atomic(output / SWEEP, sweep_text(tasks), mask)
    if as_json:
        files = {"recipe": str(output / RECIPE), "sweep": str(output / SWEEP)}
        print_json(**files, data=str(folder), tasks=list(tasks))
        return
    typer.echo(f"wrote {output / RECIPE} and {output / SWEEP}, for the data in {folder}")
    for words in (("plan",), ("sweep", "--name", _sweep_name(output))):
        command = ["ensweep", words[0], str(output / SWEEP), *words[1:]]
        typer.echo(f"next: {shlex.join(command)}", err=True)


def _sweep_name(folder: Path) -> str:
    """The name of the folder, without characters that the name of a sweep cannot have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_")[:100] or "mine"


def recipe_text(tasks: "dict[str, Task]", folder: str, path: Path) -> str:
    """The text of a recipe, to be written to `path`, that trains the tasks.

    Args:
        folder: path or URI of the data.
    """
    from trainable.config.tasks import Kind
    from trainable.imports.importing import declaration

    lines = []
    for name, task in tasks.items():
        lines += [f"  {name}:", *(f"    {line}" for line in declaration(task))]
    can_rank = any(task.kind in (Kind.SIMILARITY, Kind.ENTAILMENT) for task in tasks.values())
    return _RECIPE.format(
        recipe=shlex.quote(str(path)),
        names=", ".join(tasks),
        folder=json.dumps(_relative(folder, path.resolve().parent), ensure_ascii=False),
        tasks=json.dumps(list(tasks)),
        ranking="" if can_rank else _NOT_RANKED,
        declared="\n".join(lines),
    )


def _relative(folder: str, home: Path) -> str:
    """The data folder, relative to `home` if it is in or beside `home`, so that both can be moved
    together."""
    from mlflow_setup.uris import is_uri

    if is_uri(folder):
        return folder
    place = Path(folder).resolve()
    is_near = place.is_relative_to(home.parent) and home.parent != Path(home.anchor)
    return os.path.relpath(place, home) if is_near else str(place)


def sweep_text(tasks: "dict[str, Task]") -> str:
    """The text of a sweep over the recipe beside it."""
    return _SWEEP.format(names=", ".join(tasks), recipe=RECIPE)
