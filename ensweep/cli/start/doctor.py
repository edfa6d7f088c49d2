"""`ensweep doctor`: check the installation, devices, storage and servers."""

from dataclasses import asdict

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_checks, print_json
from ensweep.cli.shared.place import Place


@example("ensweep doctor", "ensweep doctor --storage runs --json")
def doctor(place: Place, as_json: AsJson = False) -> None:
    """Check versions, devices, storage, tracking, cache and token (secrets are not shown)."""
    from search.planning.surroundings import check_surroundings

    checks = check_surroundings(place.storage, place.tracking)
    if as_json:
        print_json(checks=[asdict(check) for check in checks.checks])
    else:
        print_checks(checks)
        if not checks.errors:
            typer.echo("all checks passed")
    raise typer.Exit(checks.exit_code)
