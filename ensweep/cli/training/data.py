"""`ensweep data`: import your own data, check the tasks' files, generate or download a data set.

ensweep data import reviews.csv --output data
ensweep data sample demo/data
ensweep data check demo/data
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.shared.command import Command, grouped
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_json
from ensweep.cli.training.importing import EXAMPLE, import_
from mlflow_setup.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainable.config.tasks import Task
    from trainable.data.defects import Defect
    from trainable.data.examples import Examples

data = typer.Typer(
    name="data", help="Import, check, generate and download data.", no_args_is_help=True
)

data.command("import", cls=Command, epilog=EXAMPLE)(grouped(import_))

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the tasks' files.")]
DataPlace = Annotated[str, typer.Argument(metavar="DIR", help="Folder or URI of the tasks' files.")]


@data.command(epilog="Example: ensweep data check data --recipe mine.yaml")
def check(
    place: DataPlace,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A recipe that declares the tasks.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Names of tasks, comma-separated; default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the rows and labels of each file, and every defect (exit code 3 if there are errors)."""
    from trainable.data.dataset import read_directory
    from trainable.data.remote import data_folder

    folder = data_folder(place)
    chosen = _choose_tasks(folder, recipe, tasks)
    parts, defects = read_directory(folder, chosen)
    counts = Counter(defect.code for defect in defects)
    has_errors = any(defect.severity == "error" for defect in defects)
    if as_json:
        rows: dict[str, dict[str, int]] = {name: {} for name in chosen}
        labels: dict[str, dict[str, dict[str, float]]] = {name: {} for name in chosen}
        for part in parts:
            rows[part.task_name][part.split] = len(part)
            labels[part.task_name][part.split] = _labels(part)
        keys = ("code", "severity", "file", "line", "column")
        listed = [{key: getattr(d, key) for key in keys} | {"message": str(d)} for d in defects]
        print_json(rows=rows, labels=labels, counts=counts, defects=listed)
    else:
        for part in parts:
            typer.echo(_line(part))
        for code in sorted(counts):
            typer.echo(_section(code, [defect for defect in defects if defect.code == code]))
        typer.echo("\nerrors found" if has_errors else "\nno errors")
    if has_errors:
        raise typer.Exit(DataError.exit_code)


@data.command(epilog="Example: ensweep data sample demo/data --train-rows 100")
def sample(
    folder: Folder,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the generator.")] = 0,
    train_rows: Annotated[
        int, typer.Option("--train-rows", min=1, help="Training rows of each task.")
    ] = 600,
    dev_rows: Annotated[
        int, typer.Option("--dev-rows", min=1, help="Dev rows of each task.")
    ] = 300,
    as_json: AsJson = False,
) -> None:
    """Write a generated data set, to try things out; its sentences have no meaning."""
    from trainable.data.synthetic import write_sample

    write_sample(folder, seed, train_rows, dev_rows)
    if as_json:
        print_json(**_written(folder), seed=seed)
    else:
        typer.echo(f"wrote a generated data set to {folder}")


@data.command(epilog="Example: ensweep data fetch data")
def fetch(folder: Folder, as_json: AsJson = False) -> None:
    """Download SST-5, QQP, STS-B and AllNLI from the Hugging Face hub."""
    from trainable.data.public_datasets import fetch as download

    download(folder, report=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json(**_written(folder))
    else:
        typer.echo(f"wrote the public data sets to {folder}")


def _written(folder: Path) -> dict[str, Any]:
    return {"folder": str(folder), "files": sorted(path.name for path in folder.iterdir())}


def _choose_tasks(folder: Path, recipe: str | None, names: str | None) -> "dict[str, Task]":
    """The named tasks of the recipe, the folder or the paper; by default all, but the paper's
    AllNLI only if its file exists."""
    from trainable.config.recipe import data_tasks, resolve
    from trainable.config.tasks import PAPER_TASKS, Task

    own = {name: Task(**declared) for name, declared in data_tasks(folder).items()}
    known = own or dict(PAPER_TASKS)
    if recipe is not None:
        known = resolve(recipe, [f"data.dir={folder}"]).config.task_records()
    if names is not None:
        chosen = [name.strip() for name in names.split(",")]
    elif recipe is None and not own and not (folder / known["nli"].files["train"]).exists():
        chosen = [name for name in known if name != "nli"]
    else:
        chosen = list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError(f"--tasks: no task {', '.join(unknown)}; known: {', '.join(known)}")
    return {name: known[name] for name in chosen}


def _labels(part: "Examples") -> dict[str, float]:
    """Class or label -> number of rows; for scores, their minimum, mean and maximum."""
    from trainable.config.tasks import Output
    from trainable.data.labels import label_sets

    if part.labels is None or not len(part):
        return {}
    if part.task.kind.output is Output.LABELS:
        counts = label_sets(part.labels, part.task.num_classes).sum(axis=0).tolist()
        return dict(zip(part.task.label_names, counts, strict=True))
    if part.task.kind.has_integer_labels:
        of_class = Counter(part.labels.astype(int).tolist())
        return {str(part.task.show(label)): of_class[label] for label in sorted(of_class)}
    labels = part.labels
    return {"min": labels.min().item(), "mean": labels.mean().item(), "max": labels.max().item()}


def _line(part: "Examples") -> str:
    from mlflow_setup.text import NUM_SHOWN, printable

    labels = [f"{name}: {value:.6g}" for name, value in _labels(part).items()]
    more = [f"{len(labels) - NUM_SHOWN} more"] if len(labels) > NUM_SHOWN else []
    shown = ", ".join(labels[:NUM_SHOWN] + more) or "no labels"
    file = printable(part.task.files[part.split])
    return f"{part.task_name:<12} {part.split} {len(part)} rows in {file} ({shown})"


def _section(code: str, defects: "list[Defect]") -> str:
    """The number of defects of one kind, how to fix them, and the first of them."""
    from mlflow_setup.text import NUM_SHOWN
    from trainable.data.defects import FIXES

    lines = [f"\n{code}, {len(defects)} {defects[0].severity}(s). fix: {FIXES[code]}"]
    lines += [f"  {defect}" for defect in defects[:NUM_SHOWN]]
    if len(defects) > NUM_SHOWN:
        lines.append(f"  ... and {len(defects) - NUM_SHOWN} more")
    return "\n".join(lines)
