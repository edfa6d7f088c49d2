"""`ensweep ablate`: what each technique is worth, over seeds.

ensweep ablate signs --data-dir data --seeds 3 data.train_fraction=0.1 train.num_epochs=2
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, DataDir, Place, as_overrides, dated
from ensweep.cli.shared.output import print_json, print_table
from ensweep.cli.sweeps.sweep import resume_hint
from mlflow_setup.errors import ConfigError, PartialError

if TYPE_CHECKING:
    from search.ablation.compare import AblationTable


@example("ensweep ablate signs --data-dir data --seeds 3 train.num_epochs=2")
def ablate(
    place: Place,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's name or a YAML file.")
    ] = "figure2",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of every row."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each row, seeds 0, 1, ...")] = 3,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="Recipes to compare with the first row's, by commas."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the sweep; default: STUDY with date and time.")
    ] = None,
    data_dir: DataDir = None,
    evaluate_only: Annotated[
        bool, typer.Option("--evaluate-only", help="Tables of the study that ran under --name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study's recipes over seeds as one sweep, then compare each with the first."""
    from search.ablation.study import read_study

    if evaluate_only and name is None:
        raise ConfigError("--evaluate-only needs the --name of a study that has run")
    given = as_overrides({"data.dir": data_dir})
    only = None if rows is None else [row.strip() for row in rows.split(",")]
    resolved = read_study(study, seeds, only, [*(overrides or []), *given])
    chosen = name or dated(Path(study).stem)

    from mlflow_setup.runs.ensemble_runs import log_to_sweep
    from search.ablation.compare import evaluate
    from search.ablation.figures import write_report
    from search.driver.sweep import run_sweep

    sweep_folder = place.storage / chosen
    if evaluate_only:
        resolved.require_trials(sweep_folder)
    else:
        num_trials = resolved.sweep.search.num_samples
        typer.echo(f"study {chosen}: {len(resolved.rows)} rows, {num_trials} trials", err=True)
        hint = resume_hint(chosen, place)
        how = f"{hint}, then this command with --name {chosen} and --evaluate-only"
        result = run_sweep(resolved.sweep, chosen, place.storage, place.tracking, resume_hint=how)
        if result.stop is not None:
            reason, exit_code = result.stop
            typer.echo(f"study {chosen} was stopped: {reason}\n{how}", err=True)
            raise typer.Exit(exit_code)
    found = evaluate(resolved.rows_in(sweep_folder), curves_of=resolved.curves_of)
    folder = sweep_folder / "ablation"
    files = write_report(found, folder)
    _print(found, folder, as_json)
    log_to_sweep(place.tracking, chosen, files, "ablation")
    failed = [line.label for line in found.lines if line.problem]
    if failed:
        raise PartialError(
            f"{len(failed)} of {len(found.lines)} rows have no numbers: {', '.join(failed)}",
            fix=f"{place.command('leaderboard', chosen, '--json')} gives the reason of each trial",
        )


def _print(study: "AblationTable", folder: Path, as_json: bool) -> None:
    from search.ablation.figures import curves_table, table

    if as_json:
        print_json(**study.to_json(), folder=str(folder))
        return
    print_table(*table(study))
    typer.echo(f"\n{study.curves_of} by epoch, from its worst (0) to its best (1):")
    print_table(*curves_table(study))
    typer.echo(f"tables and pictures: {folder}")
