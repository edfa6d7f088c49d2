"""A bundle served by replicas on a Ray cluster, each answering as `ensweep serve` does.

Ray Serve takes the connections and shares the requests out; what a request may be, and what is
answered to one that may not, is `mlflow_setup.models.scoring_server`'s in every replica.
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
_TO_ONE = 16
"""Requests that a replica is given at a time: it answers one and checks the others meanwhile."""


@dataclass(frozen=True)
class Replica:
    """What each replica is made of; the same bundle has to lie where every node sees it."""

    folder: Path
    fingerprint: str
    batch_size: int
    precision: str
    max_bytes: int
    max_rows: int

    def application(self) -> App:
        """The ASGI application, its members loaded.

        Raises:
            IntegrityError: this node has no whole bundle there, or another one.
        """
        ensemble = Ensemble.load(self.folder, self.batch_size, self.precision)
        if bundle_fingerprint(ensemble) != self.fingerprint:
            raise IntegrityError(
                f"{self.folder}: is another bundle on {platform.node()}",
                fix="put the same bundle where every node sees it",
            )
        service = Service(ensemble, self.max_bytes, self.max_rows, request_seconds())
        service.warm_up()
        return scoring_app(service)


def serve_on_ray(
    replica: Replica, host: str, port: int, num_replicas: int, report: Callable[[str, int], None]
) -> None:
    """Serve until SIGINT or SIGTERM, on the cluster at RAY_ADDRESS or on this machine.

    Args:
        host, port: of the node that this runs on; port 0: any that is free.
        report: hears host and port once every replica answers.

    Raises:
        ConfigError: Ray Serve is not installed, the address cannot be had, or a replica failed.
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
                f"{replica.folder}: no replica serves it: {_reason(serve)}",
                fix="ensweep verify it on every node; the replicas' logs say more",
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
        max_ongoing_requests=_TO_ONE,
        max_queued_requests=_MAX_QUEUED,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if any(n.gpus for n in nodes) else 0},
    )
    return deployment.bind()


def _reason(serve: Any) -> str:
    """The last line of what the replica that failed said."""
    deployments = serve.status().applications[NAME].deployments
    said = [line for line in deployments[NAME].message.splitlines() if line.strip()]
    return said[-1].strip()[:300] if said else "no reason is known"


def _stop_event() -> threading.Event:
    """Set by SIGINT or SIGTERM from now on."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
