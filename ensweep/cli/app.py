"""The `ensweep` command: every noun's commands, and what becomes of errors.

    ensweep --help
    ensweep config show b3 optim.lr=2e-5

stdout is the result, stderr is progress and messages. Exit codes: 0 done, 1 a bug, 2 usage or
configuration, 3 data, 4 done in part, 5 nothing usable, 6 integrity, 75 stopped and resumable,
130 interrupted and resumable.
"""

import io
import os
import sys

import typer

from ensweep.cli.ensembles import bundle, compress, ensemble, predict, serve, soup
from ensweep.cli.shared.options import grouped
from ensweep.cli.sweeps import ablate, cluster, leaderboard, plan, report, submit, sweep, track
from ensweep.cli.training import data, pretrain, train
from mlflow_setup.errors import INTERRUPTED, STOPPED, EnsweepError
from mlflow_setup.filesystem.atomic import is_full
from mlflow_setup.filesystem.modes import narrow_umask
from mlflow_setup.text import for_terminal

EXIT_CODES = (
    "Exit codes: 0 done, 2 usage or configuration, 3 data, 4 done in part, 5 nothing usable, "
    "6 integrity, 75 stopped and resumable, 130 interrupted."
)

app = typer.Typer(
    name="ensweep",
    help="Sweep multitask BERTs, track every run, ship the ensemble that is best for each task.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    *(pretrain.pretrain, train.train, train.recipes),
    *(plan.plan, sweep.sweep, sweep.resume, sweep.extend, sweep.sweeps, submit.submit),
    *(leaderboard.leaderboard, report.report, ablate.ablate, ablate.studies),
    *(soup.soup, ensemble.ensemble, bundle.export, bundle.verify, bundle.sign),
    *(predict.predict, bundle.evaluate, compress.compress, serve.register, serve.serve),
    *(track.ui, track.sync, track.gc),
)
"""A command is called what its function is called; `--help` lists them in this order."""
for command in COMMANDS:
    app.command()(grouped(command))
for group in (data.data, train.config, cluster.cluster):
    app.add_typer(group)


@app.callback()
def common(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Options of every command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if debug:
        os.environ["ENSWEEP_DEBUG"] = "1"


def main() -> None:
    """Run the command line; an input's problem ends in one message and its exit code."""
    narrow_umask()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is not UTF-8 leaves as it came
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app()
    except EnsweepError as error:
        if os.environ.get("ENSWEEP_DEBUG"):
            raise
        typer.echo(for_terminal(f"error: {error}"), err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("ENSWEEP_DEBUG") or not is_full(error):
            raise
        typer.echo(f"error: no space is left: {error}", err=True)
        typer.echo("fix: make room, then go on with the same command", err=True)
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
