"""`ensweep settings`: every setting with its meaning, range and default."""

import json
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.completion import setting_keys
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_json, print_table

if TYPE_CHECKING:
    from trainable.config.reference import Setting

_HEAD = """# Settings

Every setting with its meaning, its range and its default, as `ensweep settings` prints them:
`ensweep settings optim.lr` explains one, `ensweep settings loss.mnr` a section. A setting has this
one name in recipes and sweeps (YAML), as `KEY=VALUE` on the command line, as environment variable
(`ENSWEEP_OPTIM__LR`) and as MLflow's param; [recipes.md](recipes.md) says how they come together.

This page is written by `ensweep settings --markdown > docs/settings.md`.
"""


@example("ensweep settings optim.lr", "ensweep settings loss.mnr")
def settings(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]",
            help="A setting, a section, or a part of one.",
            autocompletion=setting_keys,
        ),
    ] = None,
    as_json: AsJson = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/settings.md.")
    ] = False,
) -> None:
    """List all settings, or explain some: meaning, range and default."""
    from search.config.reference import every_setting, find_settings

    chosen = every_setting() if key is None else find_settings(key)
    if as_json:
        print_json(settings={each.key: _to_json(each) for each in chosen})
    elif as_markdown:
        typer.echo(_HEAD + "".join(map(_section, _sections(chosen))), nl=False)
    elif key is None:
        print_table((), [(each.key, json.dumps(each.default), each.range) for each in chosen])
        typer.echo("to explain one: ensweep settings KEY", err=True)
    else:
        typer.echo("\n\n".join(map(_explanation, chosen)))


def _to_json(setting: "Setting") -> dict[str, object]:
    return {"meaning": setting.meaning, "range": setting.range, "default": setting.default}


def _explanation(setting: "Setting") -> str:
    default = json.dumps(setting.default)
    return f"{setting.key}\n  {setting.meaning}\n  {setting.range}; default {default}"


def _sections(chosen: "list[Setting]") -> "list[tuple[str, list[Setting]]]":
    return [(name, list(of_it)) for name, of_it in groupby(chosen, key=_section_name)]


def _section_name(setting: "Setting") -> str:
    return setting.key.rpartition(".")[0]


def _section(section: "tuple[str, list[Setting]]") -> str:
    name, of_it = section
    title, about = (f"`{name}`", of_it[0].section) if name else ("Outside of sections", "")
    lines = [f"\n## {title}\n", *([f"{about}\n"] if about else [])]
    lines += ["| setting | default | range | meaning |", "|---|---|---|---|"]
    for each in of_it:
        default = f"`{json.dumps(each.default)}`"
        cells = (f"`{each.key}`", default, each.range, each.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
