"""`ensweep recipes`, `sweeps`, `studies`: list, show and copy the packaged YAML files.

ensweep recipes
ensweep recipes show b3
ensweep sweeps copy demo mine.yaml
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.shared.command import add, example
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_listing
from mlflow_setup.errors import ConfigError

if TYPE_CHECKING:
    from trainable.config.packaged import Packaged


def packaged(name: str, first: str, use: str, load: "Callable[[], Packaged]") -> typer.Typer:
    """The command group `ensweep NAME`, which lists the files if no subcommand is given.

    Args:
        first: the name of one of the files, for examples.
        use: the command that uses such a file, printed after copying one.
        load: returns the files; called late, because it is slow to import.
    """
    noun = {"recipes": "recipe", "sweeps": "sweep", "studies": "study"}[name]
    group = typer.Typer(
        name=name, help=f"List, show and copy the packaged {name}.", invoke_without_command=True
    )

    @group.callback(epilog=f"Example: ensweep {name} show {first}")
    def listing(context: typer.Context, as_json: AsJson = False) -> None:
        if context.invoked_subcommand is None:
            print_listing(name, load().descriptions(), as_json)

    def complete(incomplete: str) -> list[tuple[str, str]]:
        listed = load().descriptions()
        return [item for item in listed.items() if item[0].startswith(incomplete)]

    Name: Any = Annotated[
        str, typer.Argument(metavar=noun.upper(), help="Name of the file.", autocompletion=complete)
    ]

    @example(f"ensweep {name} show {first}")
    def show(one: Name) -> None:
        typer.echo(load().text(one), nl=False)

    @example(f"ensweep {name} copy {first} mine.yaml")
    def copy(
        one: Name,
        file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A new file.")] = None,
    ) -> None:
        from mlflow_setup.filesystem.output import output_file

        text, target = load().text(one), file or Path(f"{one}.yaml")
        if target.exists():
            raise ConfigError(f"{target} is there already", fix="name a new file")
        with output_file(target, "FILE") as stream:
            stream.write(text.encode())
        typer.echo(f"wrote {target}")
        typer.echo(f"change it, then: {use.format(file=shlex.quote(str(target)))}", err=True)

    show.__doc__ = f"Print the file of a {noun}."
    copy.__doc__ = f"Copy the file of a {noun} to change it. Commands take its path as a name."
    add(group, show)
    add(group, copy)
    return group


def _recipes() -> "Packaged":
    from trainable.config.recipe import RECIPES

    return RECIPES


def _sweeps() -> "Packaged":
    from search.config.load import SWEEPS

    return SWEEPS


def _studies() -> "Packaged":
    from search.ablation.study import STUDIES

    return STUDIES


recipes = packaged("recipes", "b3", "ensweep train {file} --data-dir DIR", _recipes)
sweeps = packaged("sweeps", "demo", "ensweep sweep {file} --data-dir DIR", _sweeps)
studies = packaged("studies", "signs", "ensweep ablate {file} --data-dir DIR", _studies)
