"""`ensweep plan`: check a sweep before it starts, and forecast its cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, DataDir, Limits, NewSweepOptions
from ensweep.cli.shared.output import print_checks, print_json, print_table
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import show_progress
from mlflow_setup.text import counted

if TYPE_CHECKING:
    from search.planning.forecast import Forecast, Range
    from search.planning.plan import Plan


@example("ensweep plan selective --data-dir data --num-samples 16")
def plan(
    options: NewSweepOptions,
    limits: Limits,
    place: Place,
    data_dir: DataDir = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also check one running node of every node type.")
    ] = False,
    share: Annotated[
        bool,
        typer.Option("--share", help="Measure the best number of concurrent trials per device."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything that a sweep needs, train a few steps, and forecast time, disk and
    memory."""
    resolved, name = options.read(limits, data_dir)

    from search.planning.plan import make_plan

    with show_progress():
        sweep_plan = make_plan(
            resolved, name, place.storage, place.tracking, deep=deep, share=share
        )
    if as_json:
        print_json(**sweep_plan.to_json())
    else:
        _print(sweep_plan)
    raise typer.Exit(sweep_plan.exit_code)


def _print(sweep_plan: "Plan") -> None:
    print_checks(sweep_plan)
    if sweep_plan.forecast is not None:
        _print_forecast(sweep_plan.forecast)


def _print_forecast(forecast: "Forecast") -> None:
    rows = [
        _row("epochs", forecast.epochs, 0),
        _row("hours", forecast.hours, 2),
        _row("trial-hours", forecast.trial_hours, 2),
    ]
    if forecast.gpu_hours.high:
        rows.append(_row("GPU-hours", forecast.gpu_hours, 2))
    if forecast.usd is not None:
        rows.append(_row("USD", forecast.usd, 2))
    print_table(["forecast", "median", "5 %", "95 %"], rows)
    typer.echo(
        f"{counted(forecast.num_trials, 'trial')}, at most {counted(forecast.max_epochs, 'epoch')}"
    )
    typer.echo(f"disk: at most {forecast.disk_bytes / 1e9:.1f} GB")


def _row(name: str, estimate: "Range", digits: int) -> list[str]:
    values = (estimate.median, estimate.low, estimate.high)
    return [name, *(f"{value:.{digits}f}" for value in values)]
