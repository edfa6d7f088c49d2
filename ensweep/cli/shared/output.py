"""Output that several commands share: tables, JSON, checks, the next command."""

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
    """Print aligned columns on stdout, without truncation. An empty header is not printed."""
    lines = [[printable(cell) for cell in row] for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip(), file=sys.stdout)


def print_json(**content: Any) -> None:
    """Print one JSON object, with the version of its schema, on stdout."""
    typer.echo(json.dumps({"schema_version": 1, **content}, allow_nan=False))


def print_listing(noun: str, descriptions: Mapping[str, str], as_json: bool) -> None:
    """Print names and descriptions, one per line, or as JSON with `noun` as key."""
    if as_json:
        print_json(**{noun: descriptions})
    else:
        print_table((), list(descriptions.items()))


def print_checks(checks: "Checks") -> None:
    """Print one line per check, and how to fix each that has not passed."""
    for check in checks.checks:
        typer.echo(f"{check.verdict:<5}  {check.name}: {printable(check.found)}")
        if check.fix is not None and check.verdict != "ok":
            typer.echo(f"       fix: {check.fix}")
    if checks.errors:
        typer.echo(f"{len(checks.errors)} error(s) to fix before starting a trial", err=True)


def say_next(*words: str) -> None:
    """Print the next command; if it needs storage options, use `Place.say_next`."""
    typer.echo(f"next: {shlex.join(['ensweep', *words])}", err=True)


def warn_of_unused_settings(config: "Config") -> None:
    """Print a warning for each setting that has no effect in this configuration."""
    from trainable.config.constraints import settings_without_effect

    for warning in settings_without_effect(config):
        typer.echo(f"warning: {warning}", err=True)
