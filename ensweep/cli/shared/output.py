"""What several commands print, in one form."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from mlflow_setup.text import printable

if TYPE_CHECKING:
    from search.planning.checks import Checks
    from trainable.config.config import Config


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns on stdout, never cut: the output may be a file; no header: rows alone."""
    lines = [[printable(cell) for cell in row] for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip(), file=sys.stdout)


def print_json(**content: Any) -> None:
    """One JSON object on stdout, which says the version of its form."""
    typer.echo(json.dumps({"schema_version": 1, **content}, allow_nan=False))


def print_listing(noun: str, descriptions: Mapping[str, str], as_json: bool) -> None:
    """A line for each name and what it is; `noun` is their key in JSON."""
    if as_json:
        print_json(**{noun: descriptions})
    else:
        print_table((), list(descriptions.items()))


def print_checks(checks: "Checks") -> None:
    """A line for each thing that was looked at, and what to do where it is not in order."""
    for check in checks.checks:
        typer.echo(f"{check.verdict:<5}  {check.name}: {printable(check.found)}")
        if check.fix is not None and check.verdict != "ok":
            typer.echo(f"       fix: {check.fix}")
    if checks.errors:
        typer.echo(f"{len(checks.errors)} thing(s) to mend before a trial is started", err=True)


def say_next(*words: str) -> None:
    """Say which command comes next, to be typed as it is; with a place: `Place.say_next`."""
    typer.echo(f"next: {shlex.join(['ensweep', *words])}", err=True)


def warn_of_idle_settings(config: "Config") -> None:
    """A warning for each setting that changes nothing as things stand."""
    from trainable.config.constraints import settings_without_effect

    for warning in settings_without_effect(config):
        typer.echo(f"warning: {warning}", err=True)
