"""Print all routes of the MLflow server that the environment describes: `[method, path]` as JSON.

    python tests/helpers/mlflow_routes.py

They come from the applications: FastAPI's own routes, and those of the Flask app below it.
"""

import json
import os
from collections.abc import Iterator

os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"  # which `mlflow server` sets for its workers

from fastapi.routing import iter_route_contexts
from mlflow.server import app as flask_app
from mlflow.server.auth import create_app


def routes() -> Iterator[tuple[str, str]]:
    """Every method of every route, with parameters in the path as declared."""
    for route in iter_route_contexts(create_app(flask_app).routes):
        for method in getattr(route, "methods", None) or ():
            yield method, route.path
    for rule in flask_app.url_map.iter_rules():
        for method in rule.methods or ():
            yield method, rule.rule


if __name__ == "__main__":
    print(json.dumps(sorted(set(routes()))))
