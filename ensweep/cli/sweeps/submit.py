"""`ensweep submit`: submit a sweep to a Ray cluster as a job, and follow it to its end."""

import shlex
from typing import Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import AsJson, Limits, NewSweepOptions, WarmStart
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import RemotePlace
from mlflow_setup.errors import INTERRUPTED, ConfigError
from mlflow_setup.text import first_line


@example("ensweep submit cluster --data-dir /mnt/ensweep/data --storage /mnt/ensweep/runs")
def submit(
    options: NewSweepOptions,
    limits: Limits,
    place: RemotePlace,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The cluster's dashboard, for example through a tunnel.",
        ),
    ] = "http://127.0.0.1:8265",
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir", help="The tasks' files: a storage URI, or a folder on every node."
        ),
    ] = None,
    warm_start: WarmStart = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job's log to its end.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Run a sweep on a Ray cluster. The exit code is the sweep's; Ctrl-C does not stop the job.

    Submitting again with the same --name follows the running sweep, or resumes it. --storage and
    --data-dir are storage URIs, or paths that every node of the cluster mounts.
    """
    resolved, chosen = options.read(limits, is_run_here=False)
    if data_dir is not None:  # not resolved, because it is a path on the nodes
        config = {**resolved.config, "data.dir": data_dir}
        resolved = resolved.model_copy(update={"config": config})
    elif "data.dir" not in resolved.config:
        raise ConfigError(
            "no data folder",
            fix="name the tasks' files by --data-dir: a storage URI, or a folder on every node",
        )

    from search.cluster.submit import Submission, connect, connection
    from search.cluster.submit import submit as send

    where = place.storage, place.tracking_uri
    submission = Submission(resolved, chosen, *where, tuple(warm_start or ()))
    client = connect(address)
    if place.tracking_uri is None:
        typer.echo(
            f"note: runs are tracked at the cluster's MLFLOW_TRACKING_URI, else in "
            f"{place.storage}/mlflow.db; an MLflow server is recommended for a cluster",
            err=True,
        )
    with connection(address):
        job_id, is_new = send(client, submission)
    how = "submitted" if is_new else "is running already, with its original settings"
    typer.echo(f"sweep {chosen}: job {job_id} {how}", err=True)
    report = {"sweep": chosen, "job": job_id, "address": address}
    if not wait:
        typer.echo(_hints(job_id, address), err=True)
        if as_json:
            print_json(**report)
        return

    from search.cluster.follow_job import follow

    try:
        ended = follow(client, job_id, lambda text: typer.echo(text, nl=False, err=as_json))
    except KeyboardInterrupt:
        typer.echo(f"\njob {job_id} continues to run\n{_hints(job_id, address)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(**report, status=ended.status, exit_code=ended.exit_code)
    if ended.exit_code:
        reason = first_line(ended.message)
        typer.echo(f"job {job_id}: {ended.status.lower()}: {reason}", err=True)
    raise typer.Exit(ended.exit_code)


def _hints(job_id: str, address: str) -> str:
    given = ["--address", address, job_id]
    return (
        f"to follow it: {shlex.join(['ray', 'job', 'logs', '--follow', *given])}\n"
        f"to stop it, resumably: {shlex.join(['ray', 'job', 'stop', *given])}"
    )
