"""What several commands print, in one form."""

import json
import sys
from collections.abc import Mapping, Sequence

import typer


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns on stdout, never cut: the output may be a file."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip(), file=sys.stdout)


def print_listing(noun: str, descriptions: Mapping[str, str], as_json: bool) -> None:
    """A line for each name and what it is; `noun` is their key in JSON."""
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, noun: descriptions}))
        return
    width = max(map(len, descriptions))
    for name, description in descriptions.items():
        typer.echo(f"{name:<{width}}  {description}")
