"""`ensweep register`, `ensweep serve`: an exported ensemble in MLflow's registry, and over HTTP.

ensweep register bundle --name reviews
ensweep serve models:/reviews@champion
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from ensweep.cli.options import AsJson, BatchSize, Folder, Precision, Storage, TrackingUri


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the command line."""
    app.command("register")(register_bundle)
    app.command("serve")(serve)


def register_bundle(
    folder: Folder,
    name: Annotated[str, typer.Option("--name", help="Of the registered model.")] = "ensweep",
    alias: Annotated[
        str, typer.Option("--alias", help="Points to the new version from now on.")
    ] = "champion",
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Log a bundle as an MLflow model and register it."""
    from ensemble.register import register as write
    from mlflow_setup.tracking import resolve_tracking

    run_id, version = write(resolve_tracking(storage, tracking_uri), folder, name, alias)
    uri = f"models:/{name}@{alias}"
    if as_json:
        content = {"schema_version": 1, "uri": uri, "version": version, "run_id": run_id}
        typer.echo(json.dumps(content))
    else:
        typer.echo(f"{uri}: version {version}, of run {run_id}")
        typer.echo(f"next: ensweep serve {uri} --storage {storage}", err=True)


def serve(
    source: Annotated[
        str,
        typer.Argument(metavar="BUNDLE|MODEL", help="An exported bundle, or models:/NAME@ALIAS."),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free.")] = 8000,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1, help="Of a request; more is refused with 413.")
    ] = 1 << 20,
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="Of a request.")] = 1000,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Answer HTTP requests with a bundle, on MLflow's scoring server."""
    from ensemble.predict import Ensemble
    from ensemble.serve import Service
    from mlflow_setup.models import fetch_bundle, is_model
    from mlflow_setup.scoring import listen, request_seconds, run_scoring
    from mlflow_setup.tracking import resolve_tracking

    folder = Path(source)
    if is_model(source):
        folder = fetch_bundle(resolve_tracking(storage, tracking_uri), source, storage / ".cache")
    with listen(host, port) as listener:
        ensemble = Ensemble.load(folder, batch_size, precision)
        service = Service(ensemble, max_bytes, max_rows, request_seconds())
        service.warm_up()
        url = f"http://{host}:{listener.getsockname()[1]}"
        typer.echo(f"serving {source} at {url}/invocations (Ctrl-C ends it)", err=True)
        run_scoring(service, listener)
