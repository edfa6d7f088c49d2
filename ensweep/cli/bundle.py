"""`ensweep export`, `verify`, `predict`, `evaluate`: an ensemble as a folder, and its use.

ensweep export demo --output bundle
ensweep predict bundle --task sentiment --text "a warm and moving film"
"""

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from ensemble.predict import Ensemble
    from trainable.tasks import Task

Storage = Annotated[
    Path,
    typer.Option("--storage", envvar="ENSWEEP_STORAGE", help="Folder with the sweeps."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="Where runs are tracked."),
]
Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported bundle.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Precision = Annotated[str, typer.Option("--precision", help="fp32, bf16 or auto.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples a forward pass.")]


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the command line."""
    app.command("export")(export)
    app.command("verify")(verify)
    app.command("predict")(predict)
    app.command("evaluate")(evaluate)


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder; new.")],
    sweep: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="Default: the latest.")
    ] = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the selective ensemble of a sweep as a folder that needs nothing else."""
    from ensemble.export import export as write
    from mlflow_setup.runs import latest_sweep
    from mlflow_setup.tracking import resolve_tracking

    tracking = resolve_tracking(storage, tracking_uri)
    contents = write(tracking, sweep or latest_sweep(tracking), storage / ".cache", output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    typer.echo(f"{output}: {len(contents.members)} member(s), {size / 1e6:.0f} MB")


def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Prove that a bundle is whole and unchanged (exit code 6 if not)."""
    from ensemble.bundle import Bundle

    contents = Bundle.load(folder).contents
    if as_json:
        content = {"schema_version": 1, "folder": str(folder), "members": list(contents.members)}
        typer.echo(json.dumps(content))
    else:
        typer.echo(f"{folder}: whole; {len(contents.members)} member(s)")


def predict(
    folder: Folder,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="CSV, TSV or JSONL; - or nothing: standard input."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Needed where several fit.")] = None,
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
        bool, typer.Option("--submission", help="The course's submission format.")
    ] = False,
    as_json: AsJson = False,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Label sentences of one task, from a file, standard input or --text."""
    from ensemble.predict import Ensemble
    from mlflow_setup.errors import ConfigError

    ensemble = Ensemble.load(folder, batch_size, precision)
    name = _task_name(ensemble, task)
    if submission:
        if source in (None, "-") or text:
            raise ConfigError("--submission needs a test file", fix="name the file to label")
        result = _submission(ensemble, name, Path(str(source)))
    else:
        sentences = _typed(text, text2) if text else _read(source, ensemble.tasks[name])
        frame = ensemble.predict(sentences, name)
        result = _as_json(name, frame) if as_json else _as_csv(sentences, frame)
    if output is None:
        typer.echo(result, nl=False)
    else:
        from mlflow_setup.files import write_atomic

        write_atomic(output, result)
        typer.echo(f"wrote {output}", err=True)


def evaluate(
    folder: Folder,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder with the labelled files.")],
    split: Annotated[str, typer.Option("--split", help="train, dev or test.")] = "dev",
    on_bad_rows: Annotated[str, typer.Option("--on-bad-rows", help="error or skip.")] = "error",
    as_json: AsJson = False,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Score a bundle on labelled files."""
    from ensemble.predict import Ensemble
    from mlflow_setup.errors import ConfigError

    if split not in ("train", "dev", "test"):
        raise ConfigError(f"--split {split!r} is none of train, dev, test")
    if on_bad_rows not in ("error", "skip"):
        raise ConfigError(f"--on-bad-rows {on_bad_rows!r} is neither error nor skip")
    ensemble = Ensemble.load(folder, batch_size, precision)
    scores = ensemble.evaluate(data_dir, split, on_bad_rows == "skip")  # type: ignore[arg-type]
    metrics = {name: scored.metric for name, scored in ensemble.tasks.items()}
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, "split": split, "scores": scores}))
        return
    for name, score in scores.items():
        typer.echo(f"{name:<12} {metrics.get(name, '') or '':<10} {score:.4f}")
    if split == "dev":
        typer.echo("the search and the choice have seen dev: these are in-sample scores", err=True)


def _task_name(ensemble: "Ensemble", task: str | None) -> str:
    from mlflow_setup.errors import ConfigError

    names = list(ensemble.tasks)
    if task is None and len(names) == 1:
        return names[0]
    if task not in names:
        problem = "--task is missing" if task is None else f"no task {task!r}"
        raise ConfigError(f"{problem}; this bundle has {', '.join(names)}")
    return task


def _submission(ensemble: "Ensemble", name: str, path: Path) -> str:
    from ensemble.predict import read_test_file, submission
    from trainable.metrics import predicted_labels

    examples = read_test_file(ensemble, name, path)
    task = ensemble.tasks[name]
    labels = predicted_labels(task.kind, ensemble.outputs(name, examples.sentences))
    return submission(task, examples.ids, labels.tolist())


def _typed(text: list[str], text2: list[str] | None) -> list[Any]:
    from mlflow_setup.errors import ConfigError

    if text2:
        if len(text) != len(text2):
            raise ConfigError(f"{len(text)} --text but {len(text2)} --text2: give each its partner")
        return list(zip(text, text2, strict=True))
    return [tuple(line.split("\t")) if "\t" in line else line for line in text]


def _read(source: str | None, task: "Task") -> "pd.DataFrame | list[Any]":
    """Sentences of a file by its ending, or lines of standard input (pairs: tab-separated)."""
    from ensemble.predict import rows_from_mappings
    from mlflow_setup.errors import DataError

    is_stream = source in (None, "-")
    try:
        content = sys.stdin.read() if is_stream else Path(str(source)).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot be read: {error}") from None
    lines = [line for line in content.splitlines() if line.strip()]
    if is_stream:
        return _typed(lines, None)
    if str(source).endswith(".jsonl"):
        rows = [_json_row(str(source), number, line) for number, line in enumerate(lines, 1)]
        if rows and isinstance(rows[0], dict):
            return rows_from_mappings([row for row in rows if isinstance(row, dict)], task)
        return rows
    header = lines[0] if lines else ""
    delimiter = max("\t,;", key=header.count)
    table = list(csv.DictReader(io.StringIO(content), delimiter=delimiter))
    missing = [name for name in task.columns.sentences if not table or name not in table[0]]
    if missing:
        raise DataError(f"{source}: no column {', '.join(missing)} in its header, or no rows")
    return rows_from_mappings(table, task)


def _json_row(source: str, number: int, line: str) -> Any:
    from mlflow_setup.errors import DataError

    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{source}:{number}: is not JSON") from None


def _as_json(task: str, frame: "pd.DataFrame") -> str:
    content = {"schema_version": 1, "task": task, "predictions": frame.to_dict(orient="records")}
    return json.dumps(content) + "\n"


def _as_csv(sentences: Any, frame: "pd.DataFrame") -> str:
    """Sentences beside their labels; cells that a spreadsheet would run are quoted off."""
    import pandas as pd

    if isinstance(sentences, pd.DataFrame):
        texts = sentences.reset_index(drop=True)
    else:
        rows = [(row,) if isinstance(row, str) else tuple(row) for row in sentences]
        texts = pd.DataFrame(rows, columns=["sentence", "sentence2"][: len(rows[0])])
    for name in texts.columns:
        texts[name] = [_harmless(cell) for cell in texts[name]]
    buffer = io.StringIO()
    pd.concat([frame.round(4), texts], axis=1).to_csv(buffer, index=False)
    return buffer.getvalue()


def _harmless(cell: str) -> str:
    from trainable.defects import printable

    return (
        f"'{printable(cell)}"
        if cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        else printable(cell)
    )
