"""`ensweep cluster check`: find mistakes in a Ray cluster file before it is used."""

from pathlib import Path
from typing import Annotated

import typer

from ensweep.cli.shared.command import add, example
from ensweep.cli.shared.options import AsJson
from ensweep.cli.shared.output import print_json

cluster = typer.Typer(
    name="cluster", help="The Ray cluster that sweeps run on.", no_args_is_help=True
)


@cluster.callback()
def common() -> None:
    """Makes `cluster` a group of commands, although it has only one."""


@example("ensweep cluster check cluster.yaml")
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE]", help="A cluster file for `ray up`, or a RayJob for KubeRay."
        ),
    ] = Path("cluster.yaml"),
    as_json: AsJson = False,
) -> None:
    """Check a cluster file for violations of Ray's rules, and for mistakes that Ray accepts."""
    from dataclasses import asdict

    from search.cluster.check_ray_yaml import check_cluster_file
    from search.cluster.findings import refuse
    from search.cluster.kuberay_file import check_kuberay_file, is_kuberay_file

    findings = check_kuberay_file(file) if is_kuberay_file(file) else check_cluster_file(file)
    if as_json:
        print_json(findings=[asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "error" if finding.is_error else "note"
            typer.echo(f"{mark:<5}  {finding.place}: {finding.problem}")
    refuse(file, findings)
    if not as_json:
        typer.echo(f"{file}: no errors")


add(cluster, check)
