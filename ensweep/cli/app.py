"""The `ensweep` command: all commands, and the handling of errors.

    ensweep --help
    ensweep config show b3 optim.lr=2e-5

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a bug, 2 usage or
configuration, 3 data, 4 partly done, 5 nothing usable, 6 integrity, 75 stopped and resumable,
130 interrupted and resumable.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import typer
from typer.core import TyperGroup

from ensweep.cli.ensembles import bundle, compress, ensemble, predict, serve, soup
from ensweep.cli.shared.command import add, grouped
from ensweep.cli.start import config, doctor, init, packaged, settings
from ensweep.cli.sweeps import (
    ablate,
    cluster,
    delete,
    leaderboard,
    plan,
    report,
    stop,
    submit,
    sweep,
    track,
)
from ensweep.cli.training import data, pretrain, train
from mlflow_setup.errors import INTERRUPTED, STOPPED, ConfigError, EnsweepError
from mlflow_setup.filesystem.atomic import is_full
from mlflow_setup.filesystem.modes import narrow_umask
from mlflow_setup.text import for_terminal

EXIT_CODES = (
    "Exit codes: 0 done, 2 usage or configuration, 3 data, 4 partly done, 5 nothing usable, "
    "6 integrity, 75 stopped and resumable, 130 interrupted."
)

COMMANDS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Set up": (
        doctor.doctor,
        data.data,
        init.init,
        packaged.recipes,
        config.config,
        settings.settings,
    ),
    "Train and search": (
        *(train.train, pretrain.pretrain, packaged.sweeps, plan.plan),
        *(sweep.sweep, stop.stop, sweep.resume, sweep.extend, submit.submit, cluster.cluster),
        *(packaged.studies, ablate.ablate),
    ),
    "Inspect": (leaderboard.leaderboard, report.report, track.ui),
    "Combine and predict": (
        *(ensemble.ensemble, soup.soup, bundle.export, bundle.evaluate, predict.predict),
        *(compress.compress, bundle.verify, bundle.sign, bundle.push),
    ),
    "Serve": (serve.register, serve.serve),
    "Maintain": (track.sync, track.gc, delete.delete),
}
"""The commands as `--help` lists them, by group, in the order of use. A command has the name of its
function."""


def _name(command: Callable[..., None] | typer.Typer) -> str:
    return str(command.info.name if isinstance(command, typer.Typer) else command.__name__)


class InOrderOfUse(TyperGroup):
    """Lists commands in the order of `COMMANDS`; Typer would list groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [_name(command) for group in COMMANDS.values() for command in group]


app = typer.Typer(
    name="ensweep",
    cls=InOrderOfUse,
    help="Sweep multitask BERTs, track every run, ship the ensemble that is best for each task.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in COMMANDS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            for registered in command.registered_commands:
                registered.callback = registered.callback and grouped(registered.callback)
            app.add_typer(command, rich_help_panel=panel)
        else:
            add(app, command, panel)


def _version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"ensweep {version('ensweep')}")
        raise typer.Exit


@app.callback()
def common(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    _: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Options of every command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if debug:
        os.environ["ENSWEEP_DEBUG"] = "1"


_REFUSED_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of the system that are about a path which the user has named."""


def main() -> None:
    """Run the command line; an error that the user can fix is printed without a traceback."""
    narrow_umask()
    if isinstance(sys.stdout, io.TextIOWrapper):  # prints a path that is not UTF-8 unchanged
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app()
    except Exception as error:
        shown = _shown(error)
        if os.environ.get("ENSWEEP_DEBUG") or shown is None:
            raise
        message, exit_code = shown
        typer.echo(for_terminal(f"error: {message}"), err=True)
        sys.exit(exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _shown(error: Exception) -> tuple[str, int] | None:
    """The message and exit code of an error that the user can fix; None: a bug."""
    if isinstance(error, EnsweepError):
        return str(error), error.exit_code
    if is_full(error):
        fix = "free some space, then run the same command again"
        return f"the disk is full: {error}\nfix: {fix}", STOPPED
    if isinstance(error, OSError) and error.filename and error.errno in _REFUSED_PATHS:
        fix = "name a place that you can read and write, or change its permissions"
        return f"{error.filename}: {error.strerror}\nfix: {fix}", ConfigError.exit_code
    return None
