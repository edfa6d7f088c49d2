"""`ensweep stop`: stop a sweep, resumably, from another terminal or machine."""

from typing import Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, SweepName
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place


@example("ensweep stop reviews", "ensweep stop reviews --no-wait")
def stop(
    place: Place,
    sweep: SweepName = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the driver has exited.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Stop a running sweep or training with a checkpoint, as Ctrl-C in its terminal does."""
    from search.storage.stop_request import drivers, request_stop, until_left
    from search.storage.sweep_folder import find_sweep

    folder = find_sweep(place.storage, sweep)
    holders = drivers(folder)
    for path, holder in holders.items():
        request_stop(path)
        typer.echo(f"stop requested: {holder.describe()}", err=True)
    if wait:
        for path, holder in holders.items():
            for _ in until_left(path, holder):
                pass
    if as_json:
        described = [holder.describe() for holder in holders.values()]
        print_json(sweep=folder.name, asked=described, is_stopped=wait or not holders)
    elif not holders:
        typer.echo(f"{folder.name}: no process is running it")
    elif wait:
        typer.echo(f"{folder.name}: stopped")
    if folder.has_begun() and holders:
        place.say_next("resume", folder.name)
