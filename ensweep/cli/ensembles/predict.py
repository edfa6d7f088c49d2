"""`ensweep predict`: label sentences from the command line, a file or standard input."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import Address, AsJson, BatchSize, Bundle, Precision
from ensweep.cli.shared.progress import show_progress
from mlflow_setup.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble.inference.ensemble import Ensemble
    from trainable.config.tasks import Task


@dataclass(frozen=True)
class Input:
    """The sentences to label: from a file, standard input, or --text."""

    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Path or URI of a CSV or JSONL file with the tasks' sentence columns; default, "
            "or -: standard input, one sentence per line, or a pair separated by a tab.",
        ),
    ] = None
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A sentence; repeat for more.")
    ] = None
    text2: Annotated[
        list[str] | None, typer.Option("--text2", help="The second sentence of each pair.")
    ] = None

    @cached_property
    def file(self) -> Path | None:
        """The file with the sentences, downloaded if it is at a URI; None if they are not in a
        file."""
        if self.source is None or self.source == "-" or self.text:
            return None
        from trainable.data.remote import local_file

        return local_file(self.source)

    @property
    def count(self) -> int | None:
        """The number of sentences or pairs; None if it is not known."""
        from ensemble.inference.sentence_files import count_rows

        return len(self.text or ()) or None if self.file is None else count_rows(self.file)

    def check(self) -> None:
        """Raise ConfigError for options that contradict each other."""
        given, partners = len(self.text or ()), len(self.text2 or ())
        if self.text2 and partners != given:
            problem = f"{given} --text but {partners} --text2"
            raise ConfigError(problem, fix="give one --text2 for each --text")
        if self.text and self.source is not None:
            problem = f"both --text and {self.source} are given"
            raise ConfigError(problem, fix="leave one of them out")

    def chunks(self, tasks: "list[Task]") -> "Iterator[pd.DataFrame]":
        """The sentences for these tasks, a few thousand rows at a time."""
        from ensemble.inference.sentence_files import read_file, read_lines, read_stream

        if self.file is not None:
            return read_file(self.file, tasks)
        if not self.text:
            return read_stream("standard input", sys.stdin.buffer, tasks)
        if self.text2 and not any(task.kind.is_pair for task in tasks):
            raise ConfigError("--text2 is given, but the task takes single sentences")
        pairs = zip(self.text, self.text2 or (), strict=True) if self.text2 else ()
        return read_lines("--text", list(map("\t".join, pairs)) or self.text, tasks)


@dataclass(frozen=True)
class Sharding:
    """Whether the labels are written as shards, and whether on a Ray cluster."""

    shard_rows: Annotated[
        int | None,
        typer.Option(
            "--shard-rows",
            min=1,
            help="Write files of this many rows into the folder --output. Run again, the command "
            "continues where it stopped.",
        ),
    ] = None
    on_ray: Annotated[
        bool,
        typer.Option("--ray", help="Label shards with Ray; without --address on this machine."),
    ] = False
    address: Address = None

    def check(self, file: Path | None, output: Path | None) -> None:
        """Raise ConfigError unless shards are written from a file into a folder."""
        if self.shard_rows is None:
            if self.on_ray:
                raise ConfigError("--ray needs --shard-rows", fix="add --shard-rows 10000")
        elif file is None:
            problem = "--shard-rows needs a CSV or JSONL file"
            raise ConfigError(problem, fix="name the file to label")
        elif output is None:
            raise ConfigError("--shard-rows needs an output folder", fix="add --output DIR")

    def run(
        self, ensemble: "Ensemble", file: Path, names: list[str], output: Path, as_json: bool
    ) -> None:
        """Write the shards that are not in the folder yet."""
        from ensemble.inference.shards import write_shards

        assert self.shard_rows is not None
        label = None
        if self.on_ray:
            from ensemble.inference.shards_on_ray import label_on_ray

            if self.address:
                os.environ["RAY_ADDRESS"] = self.address
            label = label_on_ray(ensemble, names, as_json)
        total, num_old = write_shards(
            ensemble, file, names, output, self.shard_rows, as_json, label
        )
        before = f", {num_old} of them before" if num_old else ""
        typer.echo(f"wrote {output}: {total} shard(s){before}", err=True)


@example(
    'ensweep predict bundle --task sentiment --text "a warm and moving film"',
    "ensweep predict bundle pairs.csv --task paraphrase --output labels.csv",
)
def predict(
    folder: Bundle,
    given: Input,
    shards: Sharding,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Required unless the bundle has only one; repeat for more."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file; default: print.")
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
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Label sentences, from a file, standard input or --text."""
    from ensemble.inference.ensemble import Ensemble
    from ensemble.inference.label_files import csv_parts, json_parts
    from ensemble.inference.label_files import submission as write_submission
    from mlflow_setup.filesystem.output import check_file

    given.check()
    if submission and (given.file is None or as_json):
        problem = "--submission needs a test file, and not --json"
        raise ConfigError(problem, fix="name the file to label")
    if submission and len(set(task or ())) > 1:
        raise ConfigError("--submission is for one task", fix="name one --task")
    shards.check(None if submission else given.file, output)
    if for_spreadsheet and (submission or as_json or shards.shard_rows is not None):
        raise ConfigError("--for-spreadsheet is for a CSV file", fix="leave it out")
    if output is not None and shards.shard_rows is None:
        check_file(output)
    ensemble = Ensemble.load(folder, batch_size, precision)
    given_tasks: list[str | None] = [*task] if task else [None]
    names = list(dict.fromkeys(ensemble.task_name(name) for name in given_tasks))
    file = given.file or Path()
    # no progress bar where labels are printed to the terminal
    with show_progress() if output is not None or not sys.stdout.isatty() else nullcontext():
        if shards.shard_rows is not None:
            shards.run(ensemble, file, names, output or Path(), as_json)
        elif submission:
            _write(iter([write_submission(ensemble, names[0], file)]), output)
        else:
            chunks = given.chunks([ensemble.tasks[name] for name in names])
            labelled = _labelled(ensemble, names, chunks, given.count)
            _write(
                json_parts(names, labelled) if as_json else csv_parts(labelled, for_spreadsheet),
                output,
            )


def _labelled(
    ensemble: "Ensemble", names: list[str], chunks: "Iterator[pd.DataFrame]", total: int | None
) -> "Iterator[tuple[pd.DataFrame, pd.DataFrame]]":
    """Each chunk with its labels; reports progress."""
    from trainable.runtime.progress import Tally

    tally = Tally("labelling rows", total)
    for chunk in chunks:
        yield chunk, ensemble.label(chunk, names)
        tally.add(len(chunk), len(chunk))


def _write(parts: Iterator[str], output: Path | None) -> None:
    """Print the parts one by one, escaped for a terminal, or write them to a file atomically."""
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
