"""`ensweep sweep`, `resume`, `extend`: run a sweep, and print its results."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import (
    AsJson,
    DataDir,
    Limits,
    NewSweepOptions,
    SweepName,
    WarmStart,
)
from ensweep.cli.shared.output import print_json, print_table
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import ConfigError, NothingUsableError, PartialError
from mlflow_setup.text import counted

if TYPE_CHECKING:
    from search.driver.result import SweepResult


@example("ensweep sweep selective --data-dir data --name reviews --num-samples 16 --max-hours 2")
def sweep(
    options: NewSweepOptions,
    limits: Limits,
    place: Place,
    data_dir: DataDir = None,
    warm_start: WarmStart = None,
    resume_if_begun: Annotated[
        bool,
        typer.Option(
            "--resume-if-begun",
            help="Resume the sweep of that --name if there is one. With this option the same "
            "command can be run repeatedly.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for good configurations: run many trials, track each, and stop weak ones early."""
    if resume_if_begun and options.name is None:
        raise ConfigError("--resume-if-begun needs the --name of a sweep")
    resolved, name = options.read(limits, data_dir)

    from search.driver.sweep import run_sweep
    from search.storage.sweep_folder import SweepFolder

    if resume_if_begun and SweepFolder(place.storage, name).has_begun():
        budget = resolved.budget.model_dump(include=set(vars(limits)))
        return _resume(name, 0, Limits(**budget), place, as_json=as_json)
    typer.echo(f"sweep {name}: {counted(resolved.search.num_samples, 'trial')}", err=True)
    result = run_sweep(
        resolved,
        name,
        place.storage,
        place.tracking,
        warm_from=warm_start or (),
        resume_hint=resume_hint(name, place),
    )
    return _end(result, place, as_json)


@example("ensweep resume reviews")
def resume(
    limits: Limits,
    place: Place,
    sweep_name: SweepName = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also run the failed trials again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Resume a sweep that was stopped, or whose driver, machine or cluster was lost."""
    _resume(sweep_name, 0, limits, place, retry_failed=retry_failed, as_json=as_json)


@example("ensweep extend reviews --num-samples 8")
def extend(
    limits: Limits,
    place: Place,
    sweep_name: SweepName = None,
    num_samples: Annotated[
        int, typer.Option("--num-samples", min=1, help="Number of additional trials.")
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """Run more trials of a sweep; the search uses the results of all earlier ones."""
    _resume(sweep_name, num_samples, limits, place, as_json=as_json)


def resume_hint(sweep_name: str, place: Place) -> str:
    """The line with the command that resumes the sweep."""
    return f"to continue: {place.command('resume', sweep_name)}"


def _resume(
    sweep_name: str | None,
    num_more: int,
    limits: Limits,
    place: Place,
    *,
    retry_failed: bool = False,
    as_json: bool = False,
) -> None:
    from search.driver.sweep import resume_sweep
    from search.storage.sweep_folder import find_sweep

    folder = find_sweep(place.storage, sweep_name)
    chosen, budget = folder.name, folder.read().budget
    given = {key: limit for key, limit in vars(limits).items() if limit is not None}
    if limits.max_usd and not budget.usd_per_hour:
        raise ConfigError(
            "--max-usd: the sweep's budget.usd_per_hour has no price for any node type"
        )
    typer.echo(f"sweep {chosen}: resuming", err=True)
    result = resume_sweep(
        chosen,
        place.storage,
        place.tracking,
        num_more=num_more,
        retry_failed=retry_failed,
        budget=budget.model_copy(update=given),
        resume_hint=resume_hint(chosen, place),
    )
    _end(result, place, as_json)


def _end(result: "SweepResult", place: Place, as_json: bool) -> None:
    if as_json:
        print_json(**_to_json(result))
    else:
        _print_result(result)
    if result.stop is not None:
        reason, exit_code = result.stop
        typer.echo(f"sweep {result.name} was stopped: {reason}", err=True)
        if spent := re.match(r"budget\.(max_gpu_hours|max_usd)=", reason):
            option = f"--{spent[1].replace('_', '-')}"
            typer.echo(f"it stops again at once unless {option} is raised", err=True)
        typer.echo(resume_hint(result.name, place), err=True)
        raise typer.Exit(exit_code)
    for verb in ("leaderboard", "ensemble"):
        place.say_next(verb, result.name)
    _raise_for(result, place)


def _to_json(result: "SweepResult") -> dict[str, Any]:
    from mlflow_setup.filesystem.storage import storage_of
    from mlflow_setup.schema import Outcome

    names = ("trial", "epoch", "overall")
    best, baseline = (
        None if trial is None else dict(zip(names, trial, strict=True))
        for trial in (result.best, result.best_baseline)
    )
    return {
        "sweep": result.name,
        "folder": storage_of(result.folder).address(result.folder),
        "trials": {outcome.value: result.ended(outcome) for outcome in Outcome},
        "best": best,
        "best_baseline": baseline,
        "audit": None if result.audit is None else asdict(result.audit),
        "used": asdict(result.usage),
        "unsynced": list(result.unsynced),
        "stopped": None if result.stop is None else result.stop[0],
    }


def _print_result(result: "SweepResult") -> None:
    from mlflow_setup.filesystem.storage import storage_of
    from mlflow_setup.schema import Outcome

    if result.rungs:
        columns = ((r.number, r.epoch, len(r.arrivals), len(r.stops)) for r in result.rungs)
        rows = [[str(value) for value in row] for row in columns]
        print_table(["rung", "epoch", "arrivals", "stops"], rows)
    counts = ((outcome.value, len(result.ended(outcome))) for outcome in Outcome)
    typer.echo("trials: " + ", ".join(f"{count} {outcome}" for outcome, count in counts if count))
    if result.best is not None:
        trial, epoch, value = result.best
        typer.echo(f"best: {trial} with overall {value:.4f} after epoch {epoch}")
        if result.best_baseline is not None:
            name, _, reached = result.best_baseline
            gain = (
                f"gained {value - reached:+.4f} over" if value > reached else "has not improved on"
            )
            typer.echo(f"searching {gain} the baseline {name}, {reached:.4f}")
    if result.audit is not None:
        typer.echo(result.audit.describe())
    typer.echo(f"used: {result.usage.describe()}")
    typer.echo(f"in {storage_of(result.folder).address(result.folder)}")


def _raise_for(result: "SweepResult", place: Place) -> None:
    """Raise NothingUsableError if no trial has finished, PartialError if a trial has failed or
    MLflow has missed results."""
    from mlflow_setup.schema import Outcome

    listing = place.command("leaderboard", result.name, "--json")
    reasons = f"{listing} shows the reason of each"
    if not result.ended(Outcome.FINISHED):
        raise NothingUsableError(f"no trial of sweep {result.name} has finished", fix=reasons)
    failed = result.ended(Outcome.FAILED)
    if failed:
        problem = f"{len(failed)} of {len(result.trials)} trials failed: {', '.join(failed)}"
        again = place.command("resume", result.name, "--retry-failed")
        raise PartialError(problem, fix=f"{reasons}; {again} runs them again")
    if result.unsynced:
        raise PartialError(
            f"MLflow has missed: {', '.join(result.unsynced)}",
            fix=f"once it responds again: {place.command('sync', result.name)}",
        )
