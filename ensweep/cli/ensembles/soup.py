"""`ensweep soup`: average the weights of runs with the same initial weights, as one more trial."""

from dataclasses import asdict
from typing import Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, DataDirNeeded, SweepName
from ensweep.cli.shared.output import print_json, print_table
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import show_progress


@example("ensweep soup reviews --data-dir data --greedy")
def soup(
    data_dir: DataDirNeeded,
    place: Place,
    sweep: SweepName = None,
    greedy: Annotated[
        bool,
        typer.Option("--greedy", help="Add runs only if they do not lower the dev-train score."),
    ] = False,
    num_runs: Annotated[
        int | None, typer.Option("--num-runs", min=2, help="Only this many, best on dev-train.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Average the weights of runs with the same initial weights, as one more trial of the sweep."""
    from ensemble.soup.trial import make_soup
    from mlflow_setup.runs.query import latest_tracked_sweep

    name = sweep or latest_tracked_sweep(place.tracking)
    with show_progress():
        made = make_soup(place.tracking, name, data_dir, greedy, num_runs)
    if as_json:
        print_json(sweep=name, **{**asdict(made), "folder": str(made.folder)})
        return
    chosen = f"{len(made.ingredients)} of {made.num_sharing} runs with the same initial weights"
    typer.echo(f"{made.trial}: {chosen}: {', '.join(made.ingredients)}")
    rows = [
        [task, f"{each.single:.4f}", f"{each.soup:.4f}", each.gain.describe()]
        for task, each in made.tasks.items()
    ]
    rows.append(["overall", f"{made.single:.4f}", f"{made.overall:.4f}", ""])
    print_table(["dev-dev", "best single", "soup", "gain"], rows)
    typer.echo("runs, epochs and best single are chosen on dev-train; dev-dev is held out")
    typer.echo(f"in {made.folder}", err=True)
    place.say_next("ensemble", name)
