"""Submit a sweep to a Ray cluster as a job.

One folder is uploaded: this code and the resolved sweep as a file. Data, encoders and results are
at storage URIs or on a file system that every node mounts; data and encoders at URIs are fetched
once per node. Credentials are in the cluster's own environment.

The job reserves no CPU, so that it runs on the head, even if the head offers no CPU to trials: with
a reservation Ray might place it on a worker, which may be reclaimed.
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
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_STOP_SECONDS = "30"  # a clean stop takes up to 25 s; Ray's default is 3


@dataclass(frozen=True)
class Submission:
    """A sweep to run on a cluster. Its paths are paths of the cluster's nodes.

    Raises:
        ConfigError: the name is invalid, a path is relative, or a URI has credentials in it.
    """

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
        if encoder and Path(encoder).is_dir():  # else a name, a URI, or a path on the nodes
            _refuse_relative("model.encoder", encoder, "a storage URI (s3://...), or ")
        if has_credentials(data):
            raise ConfigError(
                "data.dir: the URI's credentials would be shown with the job",
                fix="give them to the cluster's nodes, by their role or environment",
            )
        _refuse_secrets(self.tracking_uri)

    @property
    def file_name(self) -> str:
        return f"{self.sweep.name}.yaml"

    @property
    def entrypoint(self) -> str:
        """The job's command: it starts the sweep or resumes it, so it can be submitted again."""
        words = ["python", "-m", "ensweep", "sweep", self.file_name, "--name", self.name]
        words += ["--storage", storage_of(self.storage).address(self.storage)]
        words += ["--resume-if-begun"]
        for other in self.warm_from:
            words += ["--warm-start", other]
        return f"exec {shlex.join(words)}"  # no shell between Ray's SIGTERM and the driver

    @property
    def environment(self) -> dict[str, str]:
        """The job's environment variables. Ray's dashboard shows them: no secrets."""
        tracking = {"MLFLOW_TRACKING_URI": self.tracking_uri} if self.tracking_uri else {}
        return {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS, **tracking}


def connect(address: str) -> JobSubmissionClient:
    """Connect to the cluster whose dashboard is at `address`.

    Raises:
        ConfigError: nothing answers, the token is missing or wrong, or Ray's version is another.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"--address {redact(address)}: a sweep is submitted to the dashboard of a cluster",
            fix="http://127.0.0.1:8265 after `ray dashboard cluster.yaml`",
        )
    _refuse_unreadable_token()
    for name in _VERBOSE_LOGGERS:
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
    """Return the id of the job that drives the sweep, and whether it is new.

    A running job is left alone; after one that has ended, a new one is submitted, which resumes.
    """
    status = {job.submission_id: job.status for job in client.list_jobs()}
    for job_id in job_ids(submission.name):
        if job_id not in status:
            return job_id, _send(client, submission, job_id)
        if not status[job_id].is_terminal():
            return job_id, False
    raise AssertionError("job_ids is infinite")


def job_ids(name: str) -> Iterator[str]:
    """Yield the ids of the jobs of a sweep, in the order of their submission."""
    yield f"ensweep-{name}"
    yield from (f"ensweep-{name}@{number}" for number in count(2))


@contextmanager
def connection(address: str) -> Iterator[None]:
    """Turn the errors of a connection to the cluster into ConfigError."""
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
            f"the cluster at {address} rejects the token",
            fix="put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN_PATH to "
            "its file",
        ) from None
    except (OSError, requests.RequestException) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {_reason(error)}",
            fix="ray dashboard cluster.yaml (AWS) or kubectl port-forward (Kubernetes) forwards "
            "127.0.0.1:8265 to the head",
        ) from None
    except RuntimeError as error:  # Ray raises it for every other error
        raise ConfigError(f"the cluster at {address}: {_reason(error)}") from None


def _send(client: JobSubmissionClient, submission: Submission, job_id: str) -> bool:
    """Submit the job; False: another process has submitted it already."""
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
    """Return the job's runtime environment: a folder that is unpacked, without any installation.

    Ray would install a wheel under `py_modules` with pip, into one folder for all jobs that share
    it, and a new node builds the environments of all jobs at once, even of ended ones: concurrent
    installations broke each other. `eager_install` off: it is built when a process needs it.
    """
    return {
        "working_dir": str(files),
        "env_vars": variables,
        "config": {"eager_install": False},
    }


def _refuse_relative(what: str, path: str, or_else: str = "") -> None:
    if not Path(path).is_absolute():
        raise ConfigError(
            f"{what} {path}: is a path on this machine, but the sweep runs on others",
            fix=f"{or_else}an absolute path that every node of the cluster mounts (NFS, EFS, a "
            "volume)",
        )


def _refuse_secrets(tracking_uri: str | None) -> None:
    if tracking_uri is None:
        return
    if redact(tracking_uri) != tracking_uri:
        raise ConfigError(
            f"--tracking-uri {redact(tracking_uri)}: credentials would be shown with the job",
            fix="give the URI without them, and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the environment of the cluster's nodes",
        )
    if tracking_uri.startswith("sqlite:"):
        _refuse_relative("--tracking-uri", tracking_uri.removeprefix("sqlite:///"))


def _refuse_unreadable_token() -> None:
    """Raise ConfigError for a token file that Ray would exit the process on."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    is_on = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if not is_on or not path or os.environ.get("RAY_AUTH_TOKEN"):
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
    """Unset these variables for a while: they would override the given address."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _reason(error: BaseException) -> str:
    return redact(first_line(error))[:300]
