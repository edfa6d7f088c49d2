"""`ensweep sweep`, `resume`, `extend`, `sweeps`: many trials, and what came of them.

ensweep sweep selective --data-dir data --num-samples 16 data.train_fraction=0.2
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.options import (
    AsJson,
    DataDir,
    MaxGpuHours,
    MaxHours,
    MaxUsd,
    NewName,
    NumSamples,
    SearchSeed,
    Storage,
    SweepFile,
    SweepName,
    SweepOverrides,
    TrackingUri,
    as_overrides,
    budget_options,
)
from ensweep.cli.shared.output import print_listing, print_table
from mlflow_setup.errors import ConfigError, NothingUsableError, PartialError

if TYPE_CHECKING:
    from search.driver.run import SweepResult


def sweep(
    name_or_file: SweepFile,
    overrides: SweepOverrides = None,
    name: NewName = None,
    num_samples: NumSamples = None,
    seed: SearchSeed = None,
    data_dir: DataDir = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            "--warm-start",
            metavar="OTHER",
            help="A sweep (name or folder) whose trials the search starts from; repeatable.",
        ),
    ] = None,
    max_hours: MaxHours = None,
    max_gpu_hours: MaxGpuHours = None,
    max_usd: MaxUsd = None,
    resume_if_begun: Annotated[
        bool,
        typer.Option(
            "--resume-if-begun",
            help="Go on with the sweep of that --name where there is one, as `resume` does: a "
            "command that may be run again and again.",
        ),
    ] = False,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Search for good configurations: many trials, each tracked, the weak ones stopped early."""
    options = {
        "search.num_samples": num_samples,
        "search.seed": seed,
        "data.dir": data_dir,
        **budget_options(max_hours, max_gpu_hours, max_usd),
    }

    if resume_if_begun and name is None:
        raise ConfigError("--resume-if-begun: --name must say which sweep")

    from search.config.load import read_sweep

    resolved = read_sweep(name_or_file, [*(overrides or []), *as_overrides(options)])

    from mlflow_setup.tracking.store import resolve_tracking
    from search.driver.sweep import run_sweep
    from search.storage.history import SweepFolder

    if resume_if_begun and name is not None and SweepFolder(storage, name).has_begun():
        budget = resolved.budget.model_dump(include={"max_hours", "max_gpu_hours", "max_usd"})
        limits = {f"budget.{key}": limit for key, limit in budget.items()}
        return _go_on(name, 0, limits, storage, tracking_uri)
    chosen = name or default_name(resolved.name)
    tracking = resolve_tracking(storage, tracking_uri)
    typer.echo(f"sweep {chosen}: {resolved.search.num_samples} trials", err=True)
    result = run_sweep(
        resolved,
        chosen,
        storage,
        tracking,
        warm_from=warm_start or (),
        farewell=resume_hint(chosen, storage, tracking_uri),
    )
    return _end(result, storage, tracking_uri)


def resume(
    sweep_name: SweepName = None,
    max_hours: MaxHours = None,
    max_gpu_hours: MaxGpuHours = None,
    max_usd: MaxUsd = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Go on with a sweep that was stopped, or whose driver, machine or cluster was lost."""
    _go_on(sweep_name, 0, budget_options(max_hours, max_gpu_hours, max_usd), storage, tracking_uri)


def extend(
    sweep_name: SweepName = None,
    num_samples: Annotated[int, typer.Option("--num-samples", min=1, help="More trials.")] = 8,
    max_hours: MaxHours = None,
    max_gpu_hours: MaxGpuHours = None,
    max_usd: MaxUsd = None,
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Run more trials of a sweep; the search knows all that have run."""
    budget = budget_options(max_hours, max_gpu_hours, max_usd)
    _go_on(sweep_name, num_samples, budget, storage, tracking_uri)


def sweeps(as_json: AsJson = False) -> None:
    """List the packaged sweeps with a line each."""
    from search.config.load import read_sweep, sweep_names

    listed = {name: read_sweep(name, environment={}).description for name in sweep_names()}
    print_listing("sweeps", listed, as_json)


def default_name(sweep: str) -> str:
    """What a sweep is called unless the user says so."""
    from datetime import datetime

    return f"{sweep}-{datetime.now():%Y%m%d-%H%M}"


def resume_hint(sweep_name: str, storage: Path, tracking_uri: str | None) -> str:
    """The line that tells how to go on with a sweep: what the environment says is not repeated,
    and no password is shown."""
    from mlflow_setup.uris import redact

    words = ["ensweep", "resume", sweep_name]
    if storage != Path(os.environ.get("ENSWEEP_STORAGE", "runs")):
        words += ["--storage", str(storage)]
    if tracking_uri != os.environ.get("MLFLOW_TRACKING_URI") and tracking_uri is not None:
        words += ["--tracking-uri", redact(tracking_uri)]
    return f"to go on: {shlex.join(words)}"


def end_if_stopped(result: "SweepResult", storage: Path, tracking_uri: str | None) -> None:
    """A sweep that was stopped before its end leaves with the command that goes on."""
    if result.stop is None:
        return
    reason, exit_code = result.stop
    typer.echo(f"sweep {result.name} was stopped: {reason}", err=True)
    typer.echo(resume_hint(result.name, storage, tracking_uri), err=True)
    raise typer.Exit(exit_code)


def _go_on(
    sweep_name: str | None,
    num_more: int,
    limits: dict[str, float | None],
    storage: Path,
    tracking_uri: str | None,
) -> None:
    from mlflow_setup.tracking.store import resolve_tracking
    from search.driver.sweep import resume_sweep
    from search.storage.history import SweepFolder, latest_sweep

    chosen = sweep_name or latest_sweep(storage)
    budget = SweepFolder(storage, chosen).read().budget
    given = {key.partition(".")[2]: limit for key, limit in limits.items() if limit is not None}
    if given.get("max_usd") and not budget.usd_per_hour:
        raise ConfigError(
            "--max-usd: the sweep's budget.usd_per_hour has no price of any node type"
        )
    typer.echo(f"sweep {chosen}: going on", err=True)
    result = resume_sweep(
        chosen,
        storage,
        resolve_tracking(storage, tracking_uri),
        num_more=num_more,
        budget=budget.model_copy(update=given),
        farewell=resume_hint(chosen, storage, tracking_uri),
    )
    _end(result, storage, tracking_uri)


def _end(result: "SweepResult", storage: Path, tracking_uri: str | None) -> None:
    _print_result(result)
    end_if_stopped(result, storage, tracking_uri)
    for verb in ("leaderboard", "ensemble"):
        typer.echo(f"next: ensweep {verb} {result.name}", err=True)
    _raise_for(result)


def _print_result(result: "SweepResult") -> None:
    from mlflow_setup.schema import Outcome

    if result.rungs:
        header = ["rung", "epoch", "arrivals", "stops"]
        print_table(
            header,
            [
                [str(rung.number), str(rung.epoch), str(len(rung.arrivals)), str(len(rung.stops))]
                for rung in result.rungs
            ],
        )
    counts = ((outcome.value, len(result.ended(outcome))) for outcome in Outcome)
    typer.echo("trials: " + ", ".join(f"{count} {outcome}" for outcome, count in counts if count))
    if result.best is not None:
        trial, epoch, value = result.best
        typer.echo(f"best: {trial} with overall {value:.4f} after epoch {epoch}")
    if result.audit is not None:
        typer.echo(result.audit.describe())
    typer.echo(f"used: {result.usage.describe()}")
    typer.echo(f"in {result.folder}")


def _raise_for(result: "SweepResult") -> None:
    """Exit codes 5 and 4: nothing to go on with, or done in part."""
    from mlflow_setup.schema import Outcome

    if not result.ended(Outcome.FINISHED):
        raise NothingUsableError(
            f"no trial of sweep {result.name} has finished",
            fix=f"ensweep leaderboard {result.name} --json gives the reason of each",
        )
    failed = result.ended(Outcome.FAILED)
    if failed:
        raise PartialError(
            f"{len(failed)} of {len(result.trials)} trials failed: {', '.join(failed)}",
            fix=f"ensweep leaderboard {result.name} --json gives the reason of each",
        )
    if result.unsynced:
        raise PartialError(
            f"MLflow has missed: {', '.join(result.unsynced)}",
            fix=f"once it answers again: ensweep sync {result.name}",
        )
