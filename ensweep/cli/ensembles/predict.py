"""`ensweep predict`: labels for sentences, however many there are.

ensweep predict bundle --task sentiment --text "a warm and moving film"
ensweep predict bundle pairs.csv --task paraphrase --task similarity --output labels.csv
ensweep predict bundle pairs.csv --task paraphrase --shard-rows 10000 --output labels
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.options import AsJson, BatchSize, Folder, Precision

if TYPE_CHECKING:
    import pandas as pd

    from ensemble.inference.ensemble import Ensemble
    from trainable.config.tasks import Task


def predict(
    folder: Folder,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="CSV or JSONL with the tasks' sentence columns; - or nothing: standard input, "
            "one sentence a line, or the two of a pair with a tab between them.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Needed unless the bundle has only one; repeat for more."),
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
    for_spreadsheet: Annotated[
        bool,
        typer.Option(
            "--for-spreadsheet",
            help="Put an apostrophe before cells that a spreadsheet would run as a formula.",
        ),
    ] = False,
    as_json: AsJson = False,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            "--shard-rows",
            min=1,
            help="Write files of so many rows into the folder --output; started again, the work "
            "goes on where it stopped.",
        ),
    ] = None,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="Label shards on a Ray cluster; here, if none is named.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option("--address", envvar="RAY_ADDRESS", help="The cluster of --ray: host:port."),
    ] = None,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Label sentences, from a file, standard input or --text."""
    from ensemble.inference.ensemble import Ensemble
    from ensemble.inference.label_files import csv_parts, json_parts
    from ensemble.inference.label_files import submission as write_submission
    from mlflow_setup.errors import ConfigError
    from mlflow_setup.filesystem.output import check_file

    _check_options(source, task, text, text2, submission, as_json)
    _check_sharding(source, text, submission, output, shard_rows, on_ray)
    if for_spreadsheet and (submission or as_json or shard_rows is not None):
        raise ConfigError("--for-spreadsheet is of a CSV file", fix="leave it out")
    if output is not None and shard_rows is None:
        check_file(output)
    ensemble = Ensemble.load(folder, batch_size, precision)
    asked: list[str | None] = [*task] if task else [None]
    names = list(dict.fromkeys(ensemble.task_name(name) for name in asked))
    if shard_rows is not None:
        assert source is not None
        assert output is not None
        if on_ray and address:
            os.environ["RAY_ADDRESS"] = address
        _shard(ensemble, Path(source), names, output, shard_rows, as_json, on_ray)
        return
    if submission:
        parts = iter([write_submission(ensemble, names[0], Path(str(source)))])
    else:
        chunks = _sentences(source, text, text2, [ensemble.tasks[name] for name in names])
        labelled = ((chunk, ensemble.label(chunk, names)) for chunk in chunks)
        parts = json_parts(names, labelled) if as_json else csv_parts(labelled, for_spreadsheet)
    _write(parts, output)


def _check_options(
    source: str | None,
    task: list[str] | None,
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
    if submission and len(set(task or ())) > 1:
        raise ConfigError("--submission is of one task", fix="name one --task")


def _check_sharding(
    source: str | None,
    text: list[str] | None,
    submission: bool,
    output: Path | None,
    shard_rows: int | None,
    on_ray: bool,
) -> None:
    from mlflow_setup.errors import ConfigError

    if on_ray and shard_rows is None:
        raise ConfigError("--ray labels shards", fix="give their size: --shard-rows 10000")
    if shard_rows is None:
        return
    if source in (None, "-") or text or submission:
        raise ConfigError("--shard-rows labels a CSV or JSONL file", fix="name the file to label")
    if output is None:
        raise ConfigError("--shard-rows writes a folder", fix="name it: --output DIR")


def _shard(
    ensemble: "Ensemble",
    source: Path,
    names: list[str],
    output: Path,
    num_rows: int,
    as_json: bool,
    on_ray: bool,
) -> None:
    from ensemble.inference.shards import write_shards

    label = None
    if on_ray:
        from ensemble.inference.shards_on_ray import label_on_ray

        label = label_on_ray(ensemble, names, as_json)
    total, found = write_shards(ensemble, source, names, output, num_rows, as_json, label)
    there = f", {found} of them were there" if found else ""
    typer.echo(f"wrote {output}: {total} shard(s){there}", err=True)


def _sentences(
    source: str | None, text: list[str] | None, text2: list[str] | None, tasks: "list[Task]"
) -> "Iterator[pd.DataFrame]":
    from ensemble.inference.sentence_files import read_file, read_lines, read_stream
    from mlflow_setup.errors import ConfigError

    if text:
        if text2 and not any(task.kind.is_pair for task in tasks):
            raise ConfigError("--text2 is given, but the task takes single sentences")
        lines = [f"{one}\t{two}" for one, two in zip(text, text2, strict=True)] if text2 else text
        return read_lines("--text", lines, tasks)
    if source is None or source == "-":
        return read_stream("standard input", sys.stdin.buffer, tasks)
    return read_file(Path(source), tasks)


def _write(parts: Iterator[str], output: Path | None) -> None:
    """Print the parts as they come, harmless to a terminal, or write the whole of them."""
    from mlflow_setup.filesystem.output import output_file
    from mlflow_setup.text import for_terminal

    if output is None:
        is_shown = sys.stdout.isatty()
        for part in parts:
            typer.echo(for_terminal(part) if is_shown else part, nl=False)
        return
    with output_file(output) as stream:
        for part in parts:
            stream.write(part.encode())
    typer.echo(f"wrote {output}", err=True)
