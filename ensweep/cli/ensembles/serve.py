"""`ensweep register`, `ensweep serve`: register a bundle in MLflow, and serve it over HTTP."""

import os
from typing import Annotated

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import Address, AsJson, BatchSize, Precision
from ensweep.cli.shared.output import print_json
from ensweep.cli.shared.place import Place


@example("ensweep register bundle --name reviews")
def register(
    source: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|MODEL", help="A bundle, or a registered version: models:/NAME/3."
        ),
    ],
    place: Place,
    name: Annotated[str, typer.Option("--name", help="Name of the registered model.")] = "ensweep",
    alias: Annotated[
        str, typer.Option("--alias", help="Alias to point to the new version.")
    ] = "champion",
    as_json: AsJson = False,
) -> None:
    """Log a bundle as an MLflow model and register it, or move the alias to another version."""
    from mlflow_setup.models.registry import is_model, move_alias

    run_id = None
    if is_model(source):
        done = move_alias(place.tracking, source, alias)
        name = source.removeprefix("models:/").rpartition("/")[0]
    else:
        from ensemble.export.register import register as write
        from trainable.data.remote import local_folder

        run_id, done = write(place.tracking, local_folder(source), name, alias)
    uri = f"models:/{name}@{alias}"
    if as_json:
        print_json(uri=uri, version=done.version, version_before=done.before, run_id=run_id)
        return
    typer.echo(f"{uri}: version {done.version}" + (f", of run {run_id}" if run_id else ""))
    if done.before not in (None, done.version):
        back = place.command("register", f"models:/{name}/{done.before}", "--alias", alias)
        typer.echo(f"{alias} was version {done.before} before; to go back: {back}", err=True)
    place.say_next("serve", uri)


@example("ensweep serve models:/reviews@champion --port 8000")
def serve(
    source: Annotated[
        str,
        typer.Argument(metavar="BUNDLE|MODEL", help="An exported bundle, or models:/NAME@ALIAS."),
    ],
    place: Place,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")
    ] = 8000,
    max_bytes: Annotated[
        int,
        typer.Option("--max-bytes", min=1, help="Largest request; a larger one gets status 413."),
    ] = 1 << 20,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Most rows in a request.")
    ] = 1000,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
    on_ray: Annotated[
        bool,
        typer.Option("--ray", help="Use Ray Serve; without --address on this machine."),
    ] = False,
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="With --ray: number of replicas; default: 1."),
    ] = None,
    address: Address = None,
) -> None:
    """Serve a bundle over HTTP, with MLflow's scoring protocol."""
    from ensemble.inference.ensemble import Ensemble
    from ensemble.serving.service import Service
    from mlflow_setup.errors import ConfigError
    from mlflow_setup.models.registry import fetch_bundle, is_model
    from mlflow_setup.models.scoring_server import request_seconds, run_scoring
    from mlflow_setup.tracking.ui_server import listen
    from trainable.data.remote import local_folder

    def report(host: str, port: int) -> None:
        url = f"http://{host}:{port}"
        typer.echo(f"serving {source} at {url}/invocations (Ctrl-C ends it)", err=True)

    if replicas is not None and not on_ray:
        raise ConfigError("--replicas needs --ray", fix="add --ray, or leave it out")
    if is_model(source):
        folder = fetch_bundle(place.tracking, source, place.cache)
    else:
        folder = local_folder(source)
    ensemble = Ensemble.load(folder, batch_size, precision)
    if on_ray:
        from ensemble.inference.shards import bundle_fingerprint
        from ensemble.serving.ray_serve import Replica, serve_on_ray

        if address:
            os.environ["RAY_ADDRESS"] = address
        bundle = folder.absolute(), bundle_fingerprint(ensemble)
        replica = Replica(*bundle, batch_size, precision, max_bytes, max_rows)
        serve_on_ray(replica, host, port, replicas or 1, report)
        return
    with listen(host, port) as listener:
        service = Service(ensemble, max_bytes, max_rows, request_seconds())
        service.warm_up()
        report(host, listener.getsockname()[1])
        run_scoring(service, listener)
