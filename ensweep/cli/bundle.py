"""`ensweep export`, `verify`, `predict`, `evaluate`: an ensemble as a folder, and its use.

ensweep export demo --output bundle
ensweep predict bundle --task sentiment --text "a warm and moving film"
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ensweep.cli.options import AsJson, MaxCost, MaxMembers, Method, Storage, SweepName, TrackingUri

if TYPE_CHECKING:
    import pandas as pd

    from ensemble.predict import Evaluation
    from trainable.tasks import Task

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported bundle.")]
Precision = Annotated[
    Literal["fp32", "bf16", "auto"],
    typer.Option("--precision", help="auto: bf16 where the device multiplies it in hardware."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples a forward pass.")]


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the command line."""
    app.command("export")(export)
    app.command("verify")(verify)
    app.command("predict")(predict)
    app.command("evaluate")(evaluate)


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder; new.")],
    sweep: SweepName = None,
    method: Method = None,
    max_members: MaxMembers = None,
    max_cost: MaxCost = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the selective ensemble of a sweep as a folder that needs nothing else."""
    from ensemble.export import export as write
    from mlflow_setup.runs import latest_sweep
    from mlflow_setup.tracking import resolve_tracking

    tracking = resolve_tracking(storage, tracking_uri)
    name = sweep or latest_sweep(tracking)
    cost = max_cost and max_cost * 1e6
    contents = write(tracking, name, storage / ".cache", output, method, max_members, cost)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    typer.echo(f"{output}: {len(contents.members)} member(s), {size / 1e6:.0f} MB")
    typer.echo(f"next: ensweep evaluate {output} --data-dir DIR", err=True)


def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Prove that a bundle is whole and unchanged (exit code 6 if not)."""
    from ensemble.bundle import Bundle

    contents = Bundle.load(folder).contents
    if as_json:
        content = {
            "schema_version": 1,
            "folder": str(folder),
            "tasks": list(contents.tasks),
            "members": list(contents.members),
        }
        typer.echo(json.dumps(content))
    else:
        typer.echo(f"{folder}: whole; {len(contents.members)} member(s)")


def predict(
    folder: Folder,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="CSV or JSONL with the task's sentence columns; - or nothing: standard input, "
            "one sentence a line, or the two of a pair with a tab between them.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Needed unless the bundle has only one.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A sentence; repeat for more.")
    ] = None,
    text2: Annotated[
        list[str] | None, typer.Option("--text2", help="The second sentence of each pair.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here; default: print.")
    ] = None,
    submission: Annotated[
        bool,
        typer.Option("--submission", help="Label a test file in the course's submission format."),
    ] = False,
    as_json: AsJson = False,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Label sentences of one task, from a file, standard input or --text."""
    from ensemble.label_files import read_sentences, read_stream, to_csv, to_json
    from ensemble.label_files import submission as write_submission
    from ensemble.predict import Ensemble
    from mlflow_setup.files import write_atomic

    _check_options(source, text, text2, submission, as_json)
    ensemble = Ensemble.load(folder, batch_size, precision)
    name = ensemble.task_name(task)
    if submission:
        result = write_submission(ensemble, name, Path(str(source)))
    else:
        record = ensemble.tasks[name]
        if text:
            sentences = _typed(text, text2, record)
        elif source is None or source == "-":
            sentences = read_stream("standard input", sys.stdin.buffer.read(), record)
        else:
            sentences = read_sentences(Path(source), record)
        labels = ensemble.predict(sentences, name)
        result = to_json(name, sentences, labels) if as_json else to_csv(sentences, labels)
    if output is None:
        typer.echo(result, nl=False)
    else:
        write_atomic(output, result)
        typer.echo(f"wrote {output}", err=True)


def evaluate(
    folder: Folder,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder with the labelled files.")],
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option("--split", help="Which files.")
    ] = "dev",
    on_bad_rows: Annotated[
        Literal["error", "skip"], typer.Option("--on-bad-rows", help="Rows with defects.")
    ] = "error",
    as_json: AsJson = False,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Score a bundle on labelled files."""
    from ensemble.predict import Ensemble

    ensemble = Ensemble.load(folder, batch_size, precision)
    found = ensemble.evaluate(data_dir, split, on_bad_rows == "skip")
    if as_json:
        content = dataclasses.asdict(found)
        content["scores"]["overall"] = content.pop("overall")
        typer.echo(json.dumps({"schema_version": 1, **content}, allow_nan=False))
    else:
        _print_scores(found, ensemble.tasks)
    if split != "test":
        seen = "were trained on it" if split == "train" else "were searched and chosen on it"
        typer.echo(f"in-sample: the members {seen}", err=True)


def _check_options(
    source: str | None,
    text: list[str] | None,
    text2: list[str] | None,
    submission: bool,
    as_json: bool,
) -> None:
    """Refuse options of which one would be left unused."""
    from mlflow_setup.errors import ConfigError

    if text2 and len(text2) != len(text or ()):
        raise ConfigError(
            f"{len(text or ())} --text but {len(text2)} --text2", fix="give each its partner"
        )
    if text and source is not None:
        raise ConfigError(f"both --text and {source} are given", fix="leave one of them out")
    if submission and (source in (None, "-") or as_json):
        raise ConfigError(
            "--submission labels one test file, without --json", fix="name the file to label"
        )


def _typed(text: list[str], text2: list[str] | None, task: "Task") -> "pd.DataFrame":
    from ensemble.label_files import read_lines
    from mlflow_setup.errors import ConfigError

    if text2 and not task.kind.is_pair:
        raise ConfigError("--text2 is given, but the task takes single sentences")
    lines = [f"{one}\t{two}" for one, two in zip(text, text2, strict=True)] if text2 else text
    return read_lines("--text", lines, task)


def _print_scores(found: "Evaluation", tasks: "dict[str, Task]") -> None:
    for name, score in found.scores.items():
        skipped = found.num_skipped[name]
        notes = f"{found.num_rows[name]} rows" + (f", {skipped} skipped" if skipped else "")
        if name in found.undefined:
            notes += "; undefined: the predictions are constant"
        typer.echo(f"{name:<12} {tasks[name].metric or '':<10} {score:.4f}  {notes}")
    typer.echo(f"{'overall':<12} {'':<10} {found.overall:.4f}")
    for name, reason in found.unscored.items():
        typer.echo(f"not scored: {name}: {reason}", err=True)
