"""`ensweep config show`: every setting of a configuration, and where its value came from.

ensweep config show b3 optim.lr=2e-5
"""

import json
from typing import Any

import typer

from ensweep.cli.shared.command import add, example
from ensweep.cli.shared.options import AsJson, Overrides, RecipeName
from ensweep.cli.shared.output import print_json, print_table, warn_of_idle_settings

config = typer.Typer(name="config", help="Look at configurations.", no_args_is_help=True)


@example("ensweep config show b3 optim.lr=2e-5")
def show(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Every setting of a configuration, its value and where the value came from."""
    from trainable.config.recipe import resolve

    resolved = resolve(recipe, overrides or [])
    values: dict[str, Any] = resolved.config.flat()
    if as_json:
        content = {
            key: {"value": value, "origin": resolved.origin[key]} for key, value in values.items()
        }
        print_json(recipe=resolved.recipe, config=content)
        return
    print_table((), [(key, json.dumps(v), resolved.origin[key]) for key, v in values.items()])
    warn_of_idle_settings(resolved.config)


@config.callback()
def common() -> None:
    """A group, though it has one command."""


add(config, show)
