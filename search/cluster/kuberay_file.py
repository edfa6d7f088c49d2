"""Check a KubeRay file (RayJob) before any pod is started.

Runs Ray's own parser, then checks what it accepts: misspelt keys and GPU resources, GPUs that the
sweep needs but no group has, versions that do not match, open access, and a command that cannot be
repeated, as a retry does. Nothing is fetched or started.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import first_line
from mlflow_setup.uris import is_uri, redact
from search.cluster.findings import (
    Finding,
    error,
    errors_first,
    facts,
    mapping,
    note,
    pinned_ray,
    placeholders,
    validate,
)
from search.cluster.kuberay import ACCELERATORS, CLUSTER, Command, Group, groups_of
from trainable.config.strict_yaml import parse, read_settings

_SCHEMAS = facts("kuberay.json")
_SECRET = re.compile(r"(?:PASSWORD|TOKEN|SECRET|_KEY)(?:_|$)(?!PATH|FILE)")
_MIN_GRACE_SECONDS = 30


def is_kuberay_file(path: Path) -> bool:
    """Whether the file is a KubeRay resource rather than a cluster file of `ray up`."""
    return str(read_settings(path).get("apiVersion", "")).startswith("ray.io/")


def check_kuberay_file(path: Path) -> list[Finding]:
    """Return all findings, errors first.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    written = read_settings(path)
    if written.get("kind") != "RayJob":
        return [error("kind", f"is {written.get('kind')!r}; a sweep runs as a RayJob")]
    spec = mapping(written.get("spec"))
    cluster = mapping(spec.get("rayClusterSpec"))
    groups = list(groups_of(cluster))
    command = Command.of(str(spec.get("entrypoint", "")))
    findings = [*_by_ray(written, cluster), *_job(spec, command)]
    findings += validate(
        _SCHEMAS["rayjob"], spec, "spec", "; the operator would reject or ignore it"
    )
    findings += _replicas(groups)
    for group in groups:
        findings += [*_resources(group), *_pod(group), *_secrets(group)]
    findings += [*_head(cluster, groups), *_trials(command, groups), *_token(cluster, groups)]
    findings += [*_versions(cluster, groups, path), *_paths(command, groups)]
    return errors_first([*findings, *placeholders(written)])


def _by_ray(written: Mapping[str, Any], cluster: Mapping[str, Any]) -> Iterator[Finding]:
    from ray.autoscaler._private.kuberay import autoscaling_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    metadata = {"name": "ensweep", "namespace": "default", **mapping(written.get("metadata"))}
    try:
        autoscaling_config._derive_autoscaling_config_from_ray_cr(
            {"metadata": metadata, "spec": cluster}
        )
    except KeyError as key:
        yield error(CLUSTER, f"Ray refuses it: {key} is missing")
    except Exception as fault:  # whatever Ray raises, its autoscaler would not start
        yield error(CLUSTER, f"Ray refuses it: {type(fault).__name__}: {first_line(fault)}")


def _job(spec: Mapping[str, Any], command: Command) -> Iterator[Finding]:
    place = "spec.entrypoint"
    retries = spec.get("backoffLimit", 0)
    if command.verb not in ("sweep", "resume"):
        yield error(place, "runs neither `ensweep sweep` nor `ensweep resume`")
    elif command.verb == "sweep" and not (
        "--resume-if-begun" in command.words and command.option("--name")
    ):
        problem = "cannot be run again, as a retry or a restart does"
        yield error(place, f"{problem}: --name NAME --resume-if-begun")
    if retries and command.option("--max-hours"):
        yield error(place, "--max-hours starts again with each retry; --max-gpu-hours does not")
    if not retries:
        yield note("spec.backoffLimit", "no retry: a lost head ends the sweep")
    if spec.get("shutdownAfterJobFinishes") is not True:
        problem = "is not true: the cluster keeps running, and costing, when the sweep has ended"
        yield error("spec.shutdownAfterJobFinishes", problem)
    try:
        runtime = parse(str(spec.get("runtimeEnvYAML") or ""), where="spec.runtimeEnvYAML")
    except ConfigError as refusal:
        yield error("spec.runtimeEnvYAML", refusal.problem)
        return
    for name, value in mapping(mapping(runtime).get("env_vars")).items():
        if _is_secret(str(name), str(value)):
            yield error(f"spec.runtimeEnvYAML.{name}", "a secret is shown with the job")


def _replicas(groups: list[Group]) -> Iterator[Finding]:
    workers = [group for group in groups if not group.is_head]
    if not workers:
        yield error(f"{CLUSTER}.workerGroupSpecs", "no workers, and the head runs no trials")
    for group in workers:
        least, most = (group.written.get(key) for key in ("minReplicas", "maxReplicas"))
        for key, value in (("minReplicas", least), ("maxReplicas", most)):
            if value is None:
                yield error(f"{group.place}.{key}", "is missing, but Ray's autoscaler needs it")
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield error(f"{group.place}.minReplicas", f"is {least}, above maxReplicas, {most}")


def _resources(group: Group) -> Iterator[Finding]:
    resources = mapping(group.container.get("resources"))
    for part in ("requests", "limits"):
        place = f"{group.place}.resources.{part}"
        given = mapping(resources.get(part))
        yield from validate(_SCHEMAS["resources"], given, place, "; no node has it")
        if part == "requests":
            for key in set(ACCELERATORS) & (set(given) - set(group.limits)):
                yield error(f"{place}.{key}", "GPUs must be given under limits")


def _pod(group: Group) -> Iterator[Finding]:
    grace = group.pod.get("terminationGracePeriodSeconds", _MIN_GRACE_SECONDS)
    if isinstance(grace, int) and grace < _MIN_GRACE_SECONDS:
        problem = f"is {grace}: a trial takes up to 25 s to write its checkpoint"
        yield error(f"{group.place}.terminationGracePeriodSeconds", problem)
    if "/dev/shm" not in group.mounts:
        problem = "no memory volume at /dev/shm: Ray falls back to the disk"
        yield note(f"{group.place}.volumeMounts", problem)


def _secrets(group: Group) -> Iterator[Finding]:
    for name, entry in group.env.items():
        if "value" in entry and _is_secret(name, str(entry["value"])):
            problem = "the file contains a secret: use valueFrom.secretKeyRef"
            yield error(f"{group.place}.env.{name}", problem)


def _head(cluster: Mapping[str, Any], groups: list[Group]) -> Iterator[Finding]:
    head = groups[0]
    params = mapping(head.written.get("rayStartParams"))
    if head.num_gpus:
        yield error(
            f"{head.place}.resources", "the head has a GPU: trials would run beside the driver"
        )
    if str(params.get("num-cpus")) != "0":
        problem = 'is not "0": trials would run beside the driver'
        yield error(f"{head.place}.rayStartParams.num-cpus", problem)
    if str(params.get("dashboard-host", "0.0.0.0")) != "0.0.0.0":
        problem = "the pod that submits the job cannot reach it; token and ClusterIP protect it"
        yield error(f"{head.place}.rayStartParams.dashboard-host", problem)
    if head.written.get("serviceType", "ClusterIP") != "ClusterIP":
        problem = "the dashboard runs code for anyone who can reach it: use ClusterIP"
        yield error(f"{head.place}.serviceType", problem)
    if head.written.get("enableIngress") is True:
        yield error(f"{head.place}.enableIngress", "exposes the dashboard outside the cluster")
    for key, value in mapping(head.pod.get("nodeSelector")).items():
        if "spot" in f"{key} {value}".lower() and str(value).lower() != "false":
            problem = "the head must not be on spot nodes: the cluster ends when it is reclaimed"
            yield error(f"{head.place}.nodeSelector", problem)
    if not cluster.get("enableInTreeAutoscaling"):
        yield note(f"{CLUSTER}.enableInTreeAutoscaling", "is off: the number of workers is fixed")


def _trials(command: Command, groups: list[Group]) -> Iterator[Finding]:
    """Check that the trials of the sweep fit on the workers."""
    try:
        sweep = command.sweep()
    except ConfigError as refusal:
        yield error("spec.entrypoint", refusal.problem)
        return
    workers = [group for group in groups if not group.is_head]
    most = max((group.num_gpus for group in workers), default=0.0)
    wanted = sweep.resources.gpus_per_trial if sweep is not None else None
    place = f"{CLUSTER}.workerGroupSpecs"
    if wanted and wanted > most:
        yield error(place, f"a trial needs {wanted:g} GPU(s), a worker has {most:g}: it would wait")
    elif not most:
        yield note(place, "no worker has a GPU: trials train on CPUs")
    at_start = any(
        count
        for group in workers
        for key in ("replicas", "minReplicas")
        if isinstance(count := group.written.get(key), int)
    )
    if sweep is not None and not at_start and sweep.resources.max_concurrent_trials is None:
        problem = "the cluster starts without workers, from which to count the trials that fit"
        yield error("spec.entrypoint", f"{problem}: set resources.max_concurrent_trials=N")


def _token(cluster: Mapping[str, Any], groups: list[Group]) -> Iterator[Finding]:
    """Check that a token is required: by the operator, or by every container's environment."""
    if mapping(cluster.get("authOptions")).get("mode") == "token":
        return
    if not any("RAY_AUTH_MODE" in group.env for group in groups):
        problem = "no token: any client of the head may submit jobs; set authOptions.mode: token"
        yield error(f"{CLUSTER}.authOptions", problem)
        return
    for group in groups:
        if group.env.get("RAY_AUTH_MODE", {}).get("value") != "token":
            yield error(f"{group.place}.env", "no RAY_AUTH_MODE=token, but other groups have it")
        elif "RAY_AUTH_TOKEN" not in group.env and "RAY_AUTH_TOKEN_PATH" not in group.env:
            yield error(f"{group.place}.env", "RAY_AUTH_MODE=token without RAY_AUTH_TOKEN")


def _versions(cluster: Mapping[str, Any], groups: list[Group], path: Path) -> Iterator[Finding]:
    stated, pinned = str(cluster.get("rayVersion", "")), pinned_ray(path)
    if stated != pinned:
        yield error(f"{CLUSTER}.rayVersion", f"is {stated or 'missing'}; {pinned} is tested")
    images = {str(group.container.get("image", "")) for group in groups}
    if len(images) > 1:
        yield error(CLUSTER, f"groups have different images: {', '.join(sorted(images))}")
    for group in groups:
        image = str(group.container.get("image", ""))
        tag = image.rpartition("/")[2].partition(":")[2]
        version = re.search(r"(?:^|ray)(\d+\.\d+\.\d+)", tag)
        if version is not None and version[1] != stated:
            yield error(f"{group.place}.image", f"has Ray {version[1]}; rayVersion is {stated}")
        elif version is None:
            problem = f"its tag names no version of Ray: {image or 'none'}"
            unpinned = tag in ("", "latest", "nightly")
            yield Finding(unpinned, f"{group.place}.image", problem)


def _paths(command: Command, groups: list[Group]) -> Iterator[Finding]:
    """Check that results and data are at URIs or on a volume that every pod mounts."""
    for option in ("--storage", "--data-dir"):
        path = command.option(option)
        if path is None:
            if option == "--storage":
                yield error("spec.entrypoint", "no --storage: results would be lost with the pod")
            continue
        if is_uri(path):
            yield from _roles(groups)
            continue
        for group in groups:
            if not any(Path(path).is_relative_to(mount) for mount in group.mounts):
                problem = f"{option} {path} is on none of the mounted volumes"
                yield error(f"{group.place}.volumeMounts", problem)


def _roles(groups: list[Group]) -> Iterator[Finding]:
    """Warn about pods without a service account, which access storage URIs with the node's role."""
    for group in groups:
        if "serviceAccountName" not in group.pod:
            problem = "no serviceAccountName: the pods access storage URIs with the node's role"
            yield note(f"{group.place}.serviceAccountName", problem)


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name)) or redact(value) != value
