"""Serves a bundle by replicas on a Ray cluster, with the same interface as `ensweep serve`.

Ray Serve accepts the connections and distributes the requests; every replica validates and answers
them with `mlflow_setup.models.scoring_server`.
"""

import platform
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.inference.ensemble import Ensemble
from ensemble.inference.shards import bundle_fingerprint
from ensemble.serving.service import Service
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.models.scoring_server import (
    App,
    request_seconds,
    scoring_app,
    warn_if_public,
)
from mlflow_setup.tracking.ui_server import listen
from trainable.tune.cluster import Node, cluster, environment

NAME = "ensweep"
_MAX_QUEUED = 512
_MAX_ONGOING = 16
"""Requests that a replica is sent at a time: it validates them while it answers one."""


@dataclass(frozen=True)
class Replica:
    """The settings of each replica; the bundle's folder must be the same on every node."""

    folder: Path
    fingerprint: str
    batch_size: int
    precision: str
    max_bytes: int
    max_rows: int

    def application(self) -> App:
        """Return the ASGI application, with its members loaded.

        Raises:
            IntegrityError: on this node the folder is not an intact bundle, or is another one.
        """
        ensemble = Ensemble.load(self.folder, self.batch_size, self.precision)
        if bundle_fingerprint(ensemble) != self.fingerprint:
            raise IntegrityError(
                f"{self.folder}: is another bundle on {platform.node()}",
                fix="put the bundle in a folder that is the same on every node",
            )
        service = Service(ensemble, self.max_bytes, self.max_rows, request_seconds())
        service.warm_up()
        return scoring_app(service)


def serve_on_ray(
    replica: Replica, host: str, port: int, num_replicas: int, report: Callable[[str, int], None]
) -> None:
    """Serve until SIGINT or SIGTERM, on the cluster at RAY_ADDRESS or on this machine.

    Args:
        host, port: to listen on, on this node; port 0: any free port.
        report: called with host and port when all replicas are ready.

    Raises:
        ConfigError: Ray Serve is not installed, the address is not available, or a replica failed.
    """
    serve = _ray_serve()
    with listen(host, port) as probe:
        port = int(probe.getsockname()[1])
    stopped = _stop_event()
    with environment(), cluster() as nodes:
        serve.start(http_options={"host": host, "port": port})
        try:
            serve.run(_deployment(serve, replica, num_replicas, nodes), name=NAME)
        except RuntimeError:
            raise ConfigError(
                f"{replica.folder}: its replicas cannot start: {_reason(serve)}",
                fix="run ensweep verify on every node, and see the replicas' logs",
            ) from None
        warn_if_public(host, port)
        report(host, port)
        stopped.wait()
        serve.shutdown()


def _ray_serve() -> Any:
    try:
        from ray import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Ray Serve is not installed: no module {error.name}",
            fix="pip install 'ensweep[serve]'",
        ) from None
    return serve


def _deployment(serve: Any, replica: Replica, num_replicas: int, nodes: Sequence[Node]) -> Any:
    def application() -> App:
        return replica.application()

    deployment = serve.deployment(
        serve.ingress(application)(),
        name=NAME,
        num_replicas=num_replicas,
        max_ongoing_requests=_MAX_ONGOING,
        max_queued_requests=_MAX_QUEUED,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if any(n.gpus for n in nodes) else 0},
    )
    return deployment.bind()


def _reason(serve: Any) -> str:
    """Return the last line of the failed deployment's message."""
    deployments = serve.status().applications[NAME].deployments
    lines = [line for line in deployments[NAME].message.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason is known"


def _stop_event() -> threading.Event:
    """Return an event that SIGINT or SIGTERM sets from now on."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
