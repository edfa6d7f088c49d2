"""`ensweep config show`: every setting of a configuration, and where its value comes from."""

import json
from typing import Any

import typer

from ensweep.cli.shared.command import add, example
from ensweep.cli.shared.options import AsJson, Overrides, RecipeName
from ensweep.cli.shared.output import print_json, print_table, warn_of_unused_settings

config = typer.Typer(name="config", help="Show configurations.", no_args_is_help=True)


@example("ensweep config show b3 optim.lr=2e-5")
def show(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show every setting of a configuration, its value and where the value comes from.

    Also shows the learning rate at the end of fine-tuning.
    """
    from trainable.config.recipe import resolve
    from trainable.training.stages import final_rate

    resolved = resolve(recipe, overrides or [])
    last_rate = final_rate(resolved.config)
    values: dict[str, Any] = resolved.config.flat()
    if as_json:
        content = {
            key: {"value": value, "origin": resolved.origin[key]} for key, value in values.items()
        }
        print_json(recipe=resolved.recipe, config=content, final_lr=last_rate)
        return
    print_table((), [(key, json.dumps(v), resolved.origin[key]) for key, v in values.items()])
    if last_rate is not None:
        num_epochs = resolved.config.train.num_epochs
        typer.echo(f"learning rate in epoch {num_epochs} of fine-tuning: {last_rate:.3g}")
    warn_of_unused_settings(resolved.config)


@config.callback()
def common() -> None:
    """Makes `config` a group of commands, although it has only one."""


add(config, show)
