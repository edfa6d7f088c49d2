"""`ensweep leaderboard`: list a sweep's trials, the best first, or compare several sweeps."""

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, Sweeps
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import ConfigError
from mlflow_setup.text import brief, did_you_mean, duration, score_text

if TYPE_CHECKING:
    from ensweep.cli.shared.table import Column
    from search.reports.leaderboard import Row

WIDE = ("run", "folder")
"""Columns that are shown only if `--columns` names them."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that a spreadsheet may run as a formula (CWE-1236)."""


@example("ensweep leaderboard reviews --top 10")
def leaderboard(
    place: Place,
    sweeps: Sweeps = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Columns, comma-separated; default: those that fit."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", help="Column to sort by: scores descending, others ascending."),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Number of trials to show.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the trials of a sweep, the best first, with scores, times, and why each ended.

    The chosen ensemble, with its held-out scores, and the baselines come first. Several sweeps are
    compared by the settings that differ and by their best trials.
    """
    if sweeps and len(set(sweeps)) > 1:
        from ensweep.cli.sweeps.comparison import print_comparison

        print_comparison(place, list(dict.fromkeys(sweeps)), as_json)
        return
    from mlflow_setup.runs.query import latest_choice, latest_tracked_sweep, trials_of
    from search.reports.leaderboard import leaderboard as rows_of

    chosen = sweeps[0] if sweeps else latest_tracked_sweep(place.tracking)
    runs = trials_of(place.tracking, chosen)
    rows = _first(_sorted(rows_of(runs, latest_choice(place.tracking, chosen)), sort), top)
    if as_json:
        trials = [row.to_json() for row in rows if not row.is_ensemble]
        ensemble = next((row.to_json() for row in rows if row.is_ensemble), None)
        print_json(sweep=chosen, trials=trials, ensemble=ensemble)
    elif as_csv:
        _print_csv(rows)
    else:
        typer.echo(f"sweep {chosen}", err=True)
        _print(rows, columns)


def _print(rows: "list[Row]", chosen: str | None) -> None:
    from ensweep.cli.shared.table import print_columns

    table = _columns(rows)
    by_name = {column.name: column for column in table}
    order = _by_importance(table)
    if chosen is not None:
        order = [_known(name.strip(), by_name) for name in chosen.split(",")]
        table = [by_name[name] for name in dict.fromkeys(order)]
    else:
        is_timed = any(row.ms_per_sentence is not None for row in rows)
        hidden = WIDE if is_timed else (*WIDE, "ms")
        table = [column for column in table if column.name not in hidden]
        order = [name for name in order if name not in hidden]
    styles = ["" if row.rank else "bold" if row.is_ensemble else "dim" for row in rows]
    left_out = print_columns(table, order, styles)
    if left_out:
        typer.echo(
            f"no room for: {', '.join(left_out)} (--columns chooses, --csv has all)", err=True
        )


def _columns(rows: "list[Row]") -> "list[Column]":
    """All columns, in the order of the table."""
    from ensweep.cli.shared.table import Column
    from search.reports.leaderboard import short_names

    def add(name: str, cells: Iterable[str], **how: Any) -> None:
        columns.append(Column(name, tuple(cells), **how))

    columns: list[Column] = []
    key, number = {"is_key": True}, {"is_number": True}
    add("#", (_text(row.rank) for row in rows), **key)
    add("trial", (row.trial for row in rows), **key)
    add("recipe", (row.recipe for row in rows))
    add("outcome", (row.outcome for row in rows), **key)
    add("epochs", (_text(row.epochs) for row in rows), **number)
    add("overall", (score_text(row.overall) for row in rows), **number, **key)
    for name, metric in _metrics(rows).items():
        add(name, (score_text(row.metrics.get(metric)) for row in rows), **number, **key)
    times = ("" if row.seconds is None else duration(row.seconds) for row in rows)
    add("time", times, **number, **key)
    sizes = ("" if row.megabytes is None else f"{row.megabytes:.1f}" for row in rows)
    add("MB", sizes, **number, **key)
    speeds = ("" if row.ms_per_sentence is None else f"{row.ms_per_sentence:.1f}" for row in rows)
    add("ms", speeds, **number)
    settings = _settings(rows)
    for name, short in zip(settings, short_names(settings), strict=True):
        add(name, (brief(row.params.get(name, "")) for row in rows), header=short)
    add("why", (row.reason for row in rows), is_cut=True, **key)
    add("run", (row.run_id for row in rows))
    add("folder", (row.folder or "" for row in rows))
    return columns


def _by_importance(table: "list[Column]") -> list[str]:
    names = [column.name for column in table]
    scores = names[names.index("overall") : names.index("time")]
    first = ["trial", *scores, "outcome", "why", "time", "#", "MB", "ms"]
    last = ["epochs", "recipe", "run", "folder"]
    return first + [name for name in names if name not in first + last] + last


def _metrics(rows: "list[Row]") -> dict[str, str]:
    """Column name -> metric. The name is the task's, with the metric's if a task has several."""
    metrics = sorted({metric for row in rows for metric in row.metrics})
    tasks = [metric.split("/")[1] for metric in metrics]
    return {
        task if tasks.count(task) == 1 else metric.removeprefix("dev/"): metric
        for task, metric in zip(tasks, metrics, strict=True)
    }


def _settings(rows: "list[Row]") -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.params))


def _sorted(rows: "list[Row]", key: str | None) -> "list[Row]":
    """The rows sorted by a column: scores descending, others ascending, missing values last. The
    ensemble and the baselines stay above the trials."""
    if key is None:
        return rows
    scores = {"overall", *_metrics(rows)}
    _known(key, {column.name for column in _columns(rows)})

    def place(row: "Row") -> tuple[Any, ...]:
        value = _raw(rows, row, key)
        if value is None or value == "":
            return row.rank is not None, 1, 0.0, ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return row.rank is not None, 0, -value if key in scores else value, ""
        return row.rank is not None, 0, 0.0, str(value)

    return sorted(rows, key=place)


def _first(rows: "list[Row]", top: int | None) -> "list[Row]":
    """The ensemble, the baselines, and the first `top` trials."""
    trials = [row for row in rows if row.rank is not None][:top]
    return [row for row in rows if row.rank is None] + trials


def _raw(rows: "list[Row]", row: "Row", name: str) -> Any:
    """The value of a column, unformatted."""
    fields = {"#": "rank", "time": "seconds", "MB": "megabytes", "why": "reason", "run": "run_id"}
    fields |= {"ms": "ms_per_sentence"}
    if name in (metrics := _metrics(rows)):
        return row.metrics.get(metrics[name])
    if name in row.params or name in _settings(rows):
        return row.params.get(name)
    return getattr(row, fields.get(name, name))


def _print_csv(rows: "list[Row]") -> None:
    """Print CSV with unrounded numbers. Text that a spreadsheet would run as a formula gets an
    apostrophe as prefix."""
    long = {"time": "seconds", "ms": "ms_per_sentence"}
    names = [long.get(column.name, column.name) for column in _columns(rows)]
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = [_raw(rows, row, name) for name in names]
        writer.writerow(
            f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
            for value in values
        )
    typer.echo(output.getvalue(), nl=False)


def _known(name: str, names: Any) -> str:
    if name not in names:
        raise ConfigError(
            f"no column {name!r}{did_you_mean(name, names)}", fix=f"choose from {', '.join(names)}"
        )
    return name


def _text(value: object) -> str:
    return "" if value is None else str(value)
