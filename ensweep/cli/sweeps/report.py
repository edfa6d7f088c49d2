"""`ensweep report`: write an HTML report of a sweep or of several."""

from typing import TYPE_CHECKING, Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, Sweeps
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import EnsweepError

if TYPE_CHECKING:
    from search.reports.pages.content import Report
    from search.storage.sweep_folder import SweepFolder

FOLDER = "report"


@example("ensweep report reviews")
def report(
    place: Place,
    sweeps: Sweeps = None,
    static: Annotated[
        bool, typer.Option("--static", help="Static pictures instead of interactive plots.")
    ] = False,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            metavar="URL",
            help="Instead of a report, export the sweep as an Optuna study: sqlite:///study.db.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an HTML page about a sweep, and the same as Markdown: verdict, leaderboard, curves, the
    search, the ensemble, its errors, the data, the commands. Several sweeps are compared."""
    from search.storage.sweep_folder import find_sweep

    names: list[str | None] = [*dict.fromkeys(sweeps)] if sweeps else [None]
    folders = [find_sweep(place.storage, name) for name in names]
    if study is not None:
        _export(place, folders, study, as_json)
        return
    if len(folders) > 1:
        from search.reports.comparison_report import comparison_report

        made, name = comparison_report(folders), "-".join(folder.name for folder in folders)
    else:
        from search.reports.report import sweep_report

        made, name = sweep_report(folders[0], place.tracking, place.cache), folders[0].name
    _write(place, folders, made, name, static, as_json)


def _write(
    place: Place,
    folders: "list[SweepFolder]",
    made: "Report",
    name: str,
    static: bool,
    as_json: bool,
) -> None:
    from mlflow_setup.filesystem.atomic import must_write
    from mlflow_setup.filesystem.storage import num_bytes, storage_of
    from mlflow_setup.runs.ensemble_runs import log_to_sweep
    from search.reports.pages.render import has_plotly, write_report

    target = folders[0].path / FOLDER
    is_interactive = has_plotly() and not static
    with must_write(target):
        written = write_report(made, target, name, is_interactive)
    if len(folders) == 1:
        try:
            log_to_sweep(place.tracking, folders[0].name, written.every, FOLDER)
        except EnsweepError as error:
            typer.echo(f"not logged: {error}", err=True)
    if as_json:
        absent = {section.key: section.absent for section in made.sections if section.absent}
        files = [str(path) for path in written.every]
        sweeps = [folder.name for folder in folders]
        print_json(sweeps=sweeps, verdict=list(made.verdict), files=files, absent=absent)
        return
    if not is_interactive and not static:
        typer.echo("interactive plots: pip install 'ensweep[plots]'", err=True)
    for line in made.verdict:
        typer.echo(line)
    kept = storage_of(target).address(written.html)
    also = "" if kept == str(written.html) else f", also {kept}"
    typer.echo(f"report: {written.html} ({num_bytes(written.html) / 1e6:.1f} MB){also}")


def _export(place: Place, folders: "list[SweepFolder]", url: str, as_json: bool) -> None:
    from mlflow_setup.runs.query import find_trials
    from mlflow_setup.uris import redact
    from search.reports.optuna_export import export_study

    counts = {}
    for folder in folders:
        try:
            runs = {run.trial: run.run_id for run in find_trials(place.tracking, folder.name)}
        except EnsweepError as error:
            typer.echo(f"exported without the ids of the MLflow runs: {error}", err=True)
            runs = {}
        counts[folder.name] = export_study(folder, url, runs)
    if as_json:
        print_json(study=redact(url), trials=counts)
        return
    for name, count in counts.items():
        typer.echo(f"study {name}: {count} trials in {redact(url)}")
    typer.echo(f"next: optuna-dashboard {redact(url)}", err=True)
