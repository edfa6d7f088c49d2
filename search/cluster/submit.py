"""Send a sweep to a Ray cluster as a job, and follow the job's log to its end.

What travels is one folder: this code and the resolved sweep as a file. Data and encoders are at
storage URIs, which each node fetches once, or on a file system that every node mounts, as results
are; credentials are in the cluster's own environment.
The job reserves no CPU, so that it runs on the head, even on one that offers none to trials: with
a reservation Ray would put it beside the trials, on a machine that may be taken away.
"""

import json
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.text import first_line
from mlflow_setup.uris import has_credentials, is_uri, redact
from mlflow_setup.wheel import pack_wheel
from search.config.sweep_config import SweepConfig

_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_STOP_SECONDS = "30"  # a clean stop takes up to 25; Ray's own patience is 3


@dataclass(frozen=True)
class Submission:
    """A sweep as it is to run on a cluster; its paths are those of the cluster's nodes."""

    sweep: SweepConfig
    name: str
    storage: Path
    tracking_uri: str | None = None
    warm_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        safe_name(self.name, "sweep")
        if not storage_of(self.storage).is_remote:
            _refuse_relative("--storage", str(self.storage), "a storage URI (s3://...), or ")
        data, encoder = (str(self.sweep.config.get(k, "")) for k in ("data.dir", "model.encoder"))
        if data and not is_uri(data):
            _refuse_relative("data.dir", data, "a storage URI (s3://...), or ")
        if encoder and Path(encoder).is_dir():  # else a name, a URI, or a folder of the nodes'
            _refuse_relative("model.encoder", encoder, "a storage URI (s3://...), or ")
        if has_credentials(data):
            raise ConfigError(
                "data.dir: the URI's credentials would be shown with the job",
                fix="leave them to the role or the environment of the cluster's nodes",
            )
        _refuse_secrets(self.tracking_uri)

    @property
    def file_name(self) -> str:
        return f"{self.sweep.name}.yaml"

    @property
    def entrypoint(self) -> str:
        """Begins the sweep or goes on with it: the job may be sent again and again."""
        words = ["python", "-m", "ensweep", "sweep", self.file_name, "--name", self.name]
        words += ["--storage", storage_of(self.storage).address(self.storage)]
        words += ["--resume-if-begun"]
        for other in self.warm_from:
            words += ["--warm-start", other]
        return f"exec {shlex.join(words)}"  # no shell between Ray's SIGTERM and the driver

    @property
    def environment(self) -> dict[str, str]:
        """Shown by Ray's dashboard: no secrets."""
        tracking = {"MLFLOW_TRACKING_URI": self.tracking_uri} if self.tracking_uri else {}
        return {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS, **tracking}


def connect(address: str) -> JobSubmissionClient:
    """The cluster whose dashboard is at `address`.

    Raises:
        ConfigError: nothing answers, the token is missing or wrong, or Ray is of another version.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"--address {redact(address)}: a sweep is sent to the dashboard of a cluster",
            fix="http://127.0.0.1:8265 after `ray dashboard cluster.yaml`",
        )
    _refuse_unreadable_token()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _without(_ADDRESSES), connection(address):
        client = JobSubmissionClient(address)
        theirs = client._do_request("GET", "/api/version").json()["ray_version"]
    ours = version("ray")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ConfigError(
            f"the cluster at {address} runs Ray {theirs}, this machine has {ours}",
            fix=f"an image with Ray {ours} for the cluster, or pip install 'ray=={theirs}' here",
        )
    return client


def submit(client: JobSubmissionClient, submission: Submission) -> tuple[str, bool]:
    """The id of the job that drives the sweep, and whether it is a new one.

    A job that is under way is not sent twice; one that has ended is sent again, and goes on.
    """
    status = {job.submission_id: job.status for job in client.list_jobs()}
    for job_id in job_ids(submission.name):
        if job_id not in status:
            return job_id, _send(client, submission, job_id)
        if not status[job_id].is_terminal():
            return job_id, False
    raise AssertionError("there is always another id")


def job_ids(name: str) -> Iterator[str]:
    """The ids of the jobs of a sweep, in the order in which they are sent."""
    yield f"ensweep-{name}"
    yield from (f"ensweep-{name}@{number}" for number in count(2))


@contextmanager
def connection(address: str) -> Iterator[None]:
    """What goes wrong between here and the cluster, said in the user's words."""
    try:
        yield
    except AuthenticationError as error:
        if str(error).startswith("Authentication required"):
            raise ConfigError(
                f"the cluster at {address} requires a token, and none was sent",
                fix="export RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token "
                "(mode 0600) or in the file that RAY_AUTH_TOKEN_PATH names",
            ) from None
        raise ConfigError(
            f"the cluster at {address} refuses the token: it is another cluster's",
            fix="put the cluster's token into ~/.ray/auth_token, or name its file by "
            "RAY_AUTH_TOKEN_PATH",
        ) from None
    except (OSError, requests.RequestException) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {_reason(error)}",
            fix="ray dashboard cluster.yaml (AWS) or kubectl port-forward (Kubernetes) leads "
            "127.0.0.1:8265 to the head",
        ) from None
    except RuntimeError as error:  # Ray's word for every other refusal
        raise ConfigError(f"the cluster at {address}: {_reason(error)}") from None


def _send(client: JobSubmissionClient, submission: Submission, job_id: str) -> bool:
    """Whether the job was sent: another process may have been quicker."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        with ZipFile(pack_wheel(Path(folder))) as wheel:
            wheel.extractall(files)
        content = submission.sweep.to_file()
        (files / submission.file_name).write_text(json.dumps(content, indent=1) + "\n")
        try:
            client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=job_id,
                runtime_env=_runtime_env(files, submission.environment),
                metadata={"sweep": submission.name},
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                return False
            raise
    return True


def _runtime_env(files: Path, variables: dict[str, str]) -> dict[str, Any]:
    """The job's environment on each node: a folder that is unpacked, and nothing that is installed.

    A wheel under `py_modules` is installed by pip, into one place for all jobs that send it, and a
    node that joins makes the environments of all the cluster's jobs at once, also of those that
    are over: their installs broke each other's. Nor is one made before a process needs it.
    """
    return {
        "working_dir": str(files),
        "env_vars": variables,
        "config": {"eager_install": False},
    }


def _refuse_relative(what: str, path: str, or_else: str = "") -> None:
    if not Path(path).is_absolute():
        raise ConfigError(
            f"{what} {path}: is a path of this machine, and the sweep runs on others",
            fix=f"{or_else}an absolute path that every node of the cluster mounts (NFS, EFS, a "
            "volume)",
        )


def _refuse_secrets(tracking_uri: str | None) -> None:
    if tracking_uri is None:
        return
    if redact(tracking_uri) != tracking_uri:
        raise ConfigError(
            f"--tracking-uri {redact(tracking_uri)}: credentials would be shown with the job",
            fix="name the server without them, and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the environment of the cluster's nodes",
        )
    if tracking_uri.startswith("sqlite:"):
        _refuse_relative("--tracking-uri", tracking_uri.removeprefix("sqlite:///"))


def _refuse_unreadable_token() -> None:
    """Ray would end the process on it."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    is_asked = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if not is_asked or not path or os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        if Path(path).read_text(encoding="utf-8").strip():
            return
        reason = "is empty"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error}"
    raise ConfigError(f"RAY_AUTH_TOKEN_PATH: {path} {reason}", fix="ray get-auth-token --generate")


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """These variables would win over the address that was asked for."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _reason(error: BaseException) -> str:
    return redact(first_line(error))[:300]
