"""`ensweep data`: check the tasks' files, generate a sample set, fetch the public ones.

ensweep data sample demo/data
ensweep data check demo/data
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ensweep.cli.options import AsJson

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the tasks' files.")]


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the command line."""
    data = typer.Typer(help="Check, generate and fetch data.", no_args_is_help=True)
    data.command("check")(check)
    data.command("sample")(sample)
    data.command("fetch")(fetch)
    app.add_typer(data, name="data")


def check(
    folder: Folder,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A recipe that declares tasks of its own.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Names, comma-separated; default: all known.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name every defect of a data folder (exit code 3 if there are errors)."""
    from mlflow_setup.errors import ConfigError
    from trainable.dataset import check_directory, count_rows
    from trainable.defects import FIXES, SHOWN
    from trainable.resolve import resolve
    from trainable.tasks import PAPER_TASKS

    known = dict(PAPER_TASKS)
    if recipe is not None:
        known = resolve(recipe).config.task_records()
    elif tasks is None:  # AllNLI is optional
        known = {
            n: t for n, t in known.items() if n != "nli" or (folder / t.files["train"]).exists()
        }
    names = list(known) if tasks is None else tasks.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"no task {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = {name: known[name] for name in names}
    defects = check_directory(folder, chosen)
    has_errors = any(defect.severity == "error" for defect in defects)
    counts = Counter(defect.code for defect in defects)
    rows = count_rows(folder, chosen)
    if as_json:
        listed = [
            {name: getattr(d, name) for name in ("code", "severity", "file", "line", "column")}
            | {"message": str(d)}
            for d in defects
        ]
        typer.echo(json.dumps({"schema_version": 1, "rows": rows, "defects": listed}))
    else:
        for name, by_split in rows.items():
            parts = ", ".join(f"{split} {count}" for split, count in by_split.items())
            typer.echo(f"{name:<12} {parts}")
        for code in sorted(counts):
            same = [defect for defect in defects if defect.code == code]
            typer.echo(f"\n{code}, {len(same)} {same[0].severity}(s). fix: {FIXES[code]}")
            for defect in same[:SHOWN]:
                typer.echo(f"  {defect}")
            if len(same) > SHOWN:
                typer.echo(f"  ... and {len(same) - SHOWN} more")
        typer.echo("\nerrors found" if has_errors else "\nno errors")
    if has_errors:
        raise typer.Exit(3)


def sample(
    folder: Folder,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other rows.")] = 0,
) -> None:
    """Write a generated data set, to try things out; its sentences mean nothing."""
    from trainable.sample import write_sample

    write_sample(folder, seed)
    typer.echo(f"wrote a generated data set to {folder}")


def fetch(folder: Folder) -> None:
    """Bring SST-5, QQP, STS-B and AllNLI from the public hub (needs a network)."""
    from trainable.hub import fetch as bring

    bring(folder)
    typer.echo(f"wrote the public data sets to {folder}")
