"""`ensweep data import`: detect the format of data, let options correct it, and convert the data.

ensweep data import reviews.csv --output data --label stars
"""

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_json

if TYPE_CHECKING:
    from trainable.imports.importing import Import

KindName = Literal[
    "classification",
    "regression",
    "multilabel",
    "pair_classification",
    "paraphrase",
    "similarity",
    "entailment",
]
MetricName = Literal["accuracy", "macro_f1", "micro_f1", "pearson", "spearman"]
Place = Annotated[
    str,
    typer.Argument(
        metavar="FILE|FOLDER|NAME",
        help="CSV, TSV, JSON or Parquet, a folder of such files, or a data set of the hub.",
    ),
]
EXAMPLE = "Example: ensweep data import reviews.csv --output data --label stars"


@dataclasses.dataclass(frozen=True)
class Corrections:
    """Options that replace what would be detected."""

    task: Annotated[str | None, typer.Option("--task", help="Name of the task.")] = None
    kind: Annotated[KindName | None, typer.Option("--kind", help="Kind of the task.")] = None
    sentence: Annotated[
        list[str] | None,
        typer.Option("--sentence", help="Column of the sentence; give twice for pairs."),
    ] = None
    label: Annotated[
        str | None, typer.Option("--label", help="Column of the label; `none` if there is none.")
    ] = None
    id_: Annotated[
        str | None, typer.Option("--id", help="Column of the id; `none` to number the rows.")
    ] = None
    labels: Annotated[
        str | None, typer.Option("--labels", help="All labels in order, comma-separated.")
    ] = None
    label_separator: Annotated[
        str | None, typer.Option("--label-separator", help="Separator of several labels in a cell.")
    ] = None
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Lowest score of a regression task.")
    ] = None
    max_score: Annotated[
        float | None, typer.Option("--max-score", help="Highest score of the task.")
    ] = None
    metric: Annotated[MetricName | None, typer.Option("--metric", help="Metric to maximise.")] = (
        None
    )
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", help="Delimiter of the cells in a text file.")
    ] = None
    quoting: Annotated[
        Literal["standard", "none"] | None,
        typer.Option("--quoting", help="none: quotation marks are ordinary characters."),
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns", help="Column names, comma-separated, for a file without a header."
        ),
    ] = None
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Text encoding; default: detected.")
    ] = None
    dev_share: Annotated[
        float | None,
        typer.Option("--dev-share", min=0, max=1, help="Share of the rows for a dev split."),
    ] = None
    test_share: Annotated[
        float | None,
        typer.Option(
            "--test-share", min=0, max=1, help="Share of the rows for a test split; 0: none."
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split.")] = 0

    def find(self, place: str) -> "Import":
        """The import of what is at `place`: a file, a folder or a data set of the hub."""
        from trainable.imports.finding import Given
        from trainable.imports.importing import plan_import
        from trainable.imports.sources import Form
        from trainable.imports.splitting import Cut

        given = Given(
            kind=self.kind,
            sentences=tuple(self.sentence or ()),
            label=self.label,
            id=self.id_,
            labels=_list(self.labels),
            label_separator=self.label_separator,
            min_score=self.min_score,
            max_score=self.max_score,
            metric=self.metric,
        )
        delimiter = self.delimiter and self.delimiter.replace("\\t", "\t")
        form = Form(delimiter, self.quoting, _list(self.columns) or None, self.encoding)
        return plan_import(
            place, self.task, given, form, Cut(self.dev_share, self.test_share, self.seed)
        )


def show_found(planned: "Import") -> None:
    """Print what was detected, and the options that correct it, on stderr."""
    for what, finding, options in planned.describe():
        typer.echo(f"{what:<9} {finding}" + (f"   ({options})" if options else ""), err=True)


def import_(
    place: Place,
    corrections: Corrections,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Output folder; one with other tasks gets one more."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what is detected, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import your own data: detect columns, kind and labels, and split off missing dev or test
    rows."""
    from trainable.imports.importing import check_place

    planned = corrections.find(place)
    show_found(planned)
    check_place(output, planned.name)
    if not dry_run:
        planned.write(output)
    if as_json:
        rows = {split: len(each) for split, each in planned.splits.items()}
        facts = {
            "task": planned.name,
            "kind": planned.task.kind,
            "labels": planned.task.label_names,
        }
        print_json(folder=str(output), **facts, rows=rows, is_written=not dry_run)
        return
    if dry_run:
        typer.echo("nothing was written: --dry-run", err=True)
        return
    typer.echo(f"wrote {output}")
    typer.echo(
        f"next: {shlex.join(['ensweep', 'init', str(output), '--output', _new_folder()])}", err=True
    )


def _new_folder() -> str:
    """`mine`, or the first of mine2, mine3, ... that does not exist yet."""
    names = itertools.chain(["mine"], (f"mine{number}" for number in itertools.count(2)))
    return next(name for name in names if not Path(name).exists())


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
