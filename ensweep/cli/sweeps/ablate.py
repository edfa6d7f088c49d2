"""`ensweep ablate`: measure the effect of each technique over several seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, DataDir, Limits, as_overrides, dated
from ensweep.cli.shared.output import print_json, print_table
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import ConfigError, NothingUsableError, PartialError

if TYPE_CHECKING:
    from search.ablation.compare import AblationTable
    from search.ablation.study import StudyConfig


@example("ensweep ablate signs --data-dir data --seeds 3 train.num_epochs=2")
def ablate(
    place: Place,
    limits: Limits,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of a packaged study, or a YAML file.")
    ] = "figure2",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of every row."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Runs of each row, with seeds 0, 1, ...")
    ] = 3,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="Recipes to compare with the first row's, comma-separated."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the sweep; default: STUDY with date and time."),
    ] = None,
    data_dir: DataDir = None,
    resume_if_begun: Annotated[
        bool,
        typer.Option(
            "--resume-if-begun",
            help="Continue the study of that --name if there is one. With this option the same "
            "command can be run repeatedly.",
        ),
    ] = False,
    evaluate_only: Annotated[
        bool,
        typer.Option("--evaluate-only", help="Only write the tables of the study named by --name."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study's recipes with several seeds as one sweep, and compare each row with its base."""
    from search.ablation.study import read_study
    from search.storage.sweep_folder import SweepFolder

    for option, is_on in (
        ("--evaluate-only", evaluate_only),
        ("--resume-if-begun", resume_if_begun),
    ):
        if is_on and name is None:
            raise ConfigError(f"{option} needs the --name of a study")
    budget = {f"budget.{key}": limit for key, limit in vars(limits).items()}
    given = {"data.dir": data_dir, **budget}
    only = None if rows is None else [row.strip() for row in rows.split(",")]
    resolved = read_study(study, seeds, only, [*(overrides or []), *as_overrides(given)])
    chosen = name or dated(Path(study).stem)
    if evaluate_only:
        resolved.require_trials(SweepFolder(place.storage, chosen).path)
    else:
        _run(resolved, chosen, place, resume_if_begun)
    table = _evaluate(resolved, chosen, place)
    _print(table, place.storage / chosen / "ablation", as_json)
    failed = [line.label for line in table.lines if line.problem]
    if failed:
        raise PartialError(
            f"{len(failed)} of {len(table.lines)} rows have no numbers: {', '.join(failed)}",
            fix=f"{place.command('leaderboard', chosen, '--json')} gives the reason of each trial",
        )


def _run(resolved: "StudyConfig", chosen: str, place: Place, may_resume: bool) -> None:
    """Run all trials, or the remaining ones. If that is stopped, print the tables of what has
    ended, and exit."""
    from search.driver.sweep import resume_sweep, run_sweep
    from search.storage.sweep_folder import SweepFolder

    sweep, num_trials = resolved.sweep, resolved.sweep.search.num_samples
    how = f"to continue: run this command again with --name {chosen} and --resume-if-begun"
    if may_resume and SweepFolder(place.storage, chosen).has_begun():
        resolved.require_trials(place.storage / chosen)
        typer.echo(f"study {chosen}: resuming", err=True)
        result = resume_sweep(
            chosen, place.storage, place.tracking, budget=sweep.budget, resume_hint=how
        )
    else:
        typer.echo(f"study {chosen}: {len(resolved.rows)} rows, {num_trials} trials", err=True)
        result = run_sweep(sweep, chosen, place.storage, place.tracking, resume_hint=how)
    if result.stop is None:
        return
    reason, exit_code = result.stop
    try:
        table = _evaluate(resolved, chosen, place)
        print_table(*_table(table))
    except NothingUsableError as nothing:
        typer.echo(nothing.problem, err=True)
    typer.echo(f"study {chosen} was stopped: {reason}\n{how}", err=True)
    raise typer.Exit(exit_code)


def _evaluate(resolved: "StudyConfig", chosen: str, place: Place) -> "AblationTable":
    """Write the tables of the rows that have ended, and log them in MLflow."""
    from mlflow_setup.runs.ensemble_runs import log_to_sweep
    from search.ablation.compare import evaluate
    from search.ablation.figures import write_report

    folder = place.storage / chosen
    table = evaluate(resolved.rows_in(folder), curves_of_row=resolved.curves_of)
    files = write_report(table, folder / "ablation")
    log_to_sweep(place.tracking, chosen, files, "ablation")
    return table


def _table(study: "AblationTable") -> tuple[list[str], list[list[str]]]:
    from search.ablation.figures import table

    return table(study)


def _print(study: "AblationTable", folder: Path, as_json: bool) -> None:
    from mlflow_setup.filesystem.storage import storage_of
    from search.ablation.figures import curves_table

    shown = storage_of(folder).address(folder)
    if as_json:
        print_json(**study.to_json(), folder=shown)
        return
    print_table(*_table(study))
    typer.echo(f"\n{study.curves_of} by epoch, from its worst (0) to its best (1):")
    print_table(*curves_table(study))
    typer.echo(f"tables and pictures: {shown}")
