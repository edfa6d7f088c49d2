"""What is wrong with a KubeRay file (RayJob), before a pod is paid for.

Ray's own reading of it first, then what that lets through: misspelt keys and GPU resources, a GPU
that the sweep needs and no group has, versions that do not fit, doors left open, and a command
that cannot be run again, as a retry does. Nothing is fetched, nothing is started.
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
    against,
    error,
    facts,
    in_order,
    mapping,
    note,
    pinned_ray,
    to_be_filled_in,
)
from search.cluster.kuberay import ACCELERATORS, CLUSTER, Command, Group, groups_of
from trainable.config.strict_yaml import parse, read_settings

_SCHEMAS = facts("kuberay.json")
_SECRET = re.compile(r"(?:PASSWORD|TOKEN|SECRET|_KEY)(?:_|$)(?!PATH|FILE)")
_MIN_GRACE_SECONDS = 30


def is_kuberay_file(path: Path) -> bool:
    """Whether the file is one of KubeRay's kinds rather than what `ray up` takes."""
    return str(read_settings(path).get("apiVersion", "")).startswith("ray.io/")


def check_kuberay_file(path: Path) -> list[Finding]:
    """All findings, errors first.

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
    findings += against(
        _SCHEMAS["rayjob"], spec, "spec", "; the operator would refuse or ignore it"
    )
    findings += _replicas(groups)
    for group in groups:
        findings += [*_resources(group), *_pod(group), *_secrets(group)]
    findings += [*_head(cluster, groups), *_trials(command, groups), *_token(cluster, groups)]
    findings += [*_versions(cluster, groups, path), *_paths(command, groups)]
    return in_order([*findings, *to_be_filled_in(written)])


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
        yield error(place, "--max-hours begins anew with each retry; --max-gpu-hours does not")
    if not retries:
        yield note("spec.backoffLimit", "no retry: a lost head ends the sweep")
    if spec.get("shutdownAfterJobFinishes") is not True:
        problem = "is not true: the cluster costs on when the sweep has ended"
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
        yield error(f"{CLUSTER}.workerGroupSpecs", "there are no workers, and the head has no CPU")
    for group in workers:
        least, most = (group.written.get(key) for key in ("minReplicas", "maxReplicas"))
        for key, value in (("minReplicas", least), ("maxReplicas", most)):
            if value is None:
                yield error(f"{group.place}.{key}", "is missing, and Ray's autoscaler needs it")
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield error(f"{group.place}.minReplicas", f"is {least}, over maxReplicas, {most}")


def _resources(group: Group) -> Iterator[Finding]:
    resources = mapping(group.container.get("resources"))
    for part in ("requests", "limits"):
        place = f"{group.place}.resources.{part}"
        asked = mapping(resources.get(part))
        yield from against(_SCHEMAS["resources"], asked, place, "; no node has it")
        if part == "requests":
            for key in set(ACCELERATORS) & (set(asked) - set(group.limits)):
                yield error(f"{place}.{key}", "GPUs are asked for under limits")


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
            problem = "a secret stands in the file: valueFrom.secretKeyRef"
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
        problem = "the pod that sends the job cannot reach it; token and ClusterIP guard it"
        yield error(f"{head.place}.rayStartParams.dashboard-host", problem)
    if head.written.get("serviceType", "ClusterIP") != "ClusterIP":
        problem = "the dashboard runs code for anyone who can reach it: ClusterIP"
        yield error(f"{head.place}.serviceType", problem)
    if head.written.get("enableIngress") is True:
        yield error(f"{head.place}.enableIngress", "the dashboard is open to the outside")
    for key, value in mapping(head.pod.get("nodeSelector")).items():
        if "spot" in f"{key} {value}".lower() and str(value).lower() != "false":
            problem = "the head must not be on spot nodes: when it goes the cluster is gone"
            yield error(f"{head.place}.nodeSelector", problem)
    if not cluster.get("enableInTreeAutoscaling"):
        yield note(f"{CLUSTER}.enableInTreeAutoscaling", "is off: workers stay as many")


def _trials(command: Command, groups: list[Group]) -> Iterator[Finding]:
    """Whether the trials of the sweep fit into the workers."""
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
        problem = "the cluster starts without workers, so there is nothing to count"
        yield error("spec.entrypoint", f"{problem}: resources.max_concurrent_trials=N")


def _token(cluster: Mapping[str, Any], groups: list[Group]) -> Iterator[Finding]:
    """Check that a token is required: by the operator, or by every container's environment."""
    if mapping(cluster.get("authOptions")).get("mode") == "token":
        return
    if not any("RAY_AUTH_MODE" in group.env for group in groups):
        problem = "no token: any client of the head may submit jobs; authOptions.mode: token"
        yield error(f"{CLUSTER}.authOptions", problem)
        return
    for group in groups:
        if group.env.get("RAY_AUTH_MODE", {}).get("value") != "token":
            yield error(f"{group.place}.env", "no RAY_AUTH_MODE=token, and others have it")
        elif "RAY_AUTH_TOKEN" not in group.env and "RAY_AUTH_TOKEN_PATH" not in group.env:
            yield error(f"{group.place}.env", "RAY_AUTH_MODE=token, and no RAY_AUTH_TOKEN")


def _versions(cluster: Mapping[str, Any], groups: list[Group], path: Path) -> Iterator[Finding]:
    stated, pinned = str(cluster.get("rayVersion", "")), pinned_ray(path)
    if stated != pinned:
        yield error(f"{CLUSTER}.rayVersion", f"is {stated or 'missing'}; {pinned} is tested")
    images = {str(group.container.get("image", "")) for group in groups}
    if len(images) > 1:
        yield error(CLUSTER, f"nodes differ in their image: {', '.join(sorted(images))}")
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
    """What is at no URI, results or data, lies on a volume that every pod mounts."""
    for option in ("--storage", "--data-dir"):
        path = command.option(option)
        if path is None:
            if option == "--storage":
                yield error("spec.entrypoint", "no --storage: results would go with the pod")
            continue
        if is_uri(path):
            yield from _roles(groups)
            continue
        for group in groups:
            if not any(Path(path).is_relative_to(mount) for mount in group.mounts):
                yield error(f"{group.place}.volumeMounts", f"{option} {path} is on no volume of it")


def _roles(groups: list[Group]) -> Iterator[Finding]:
    """By what right the pods read and write at storage URIs."""
    for group in groups:
        if "serviceAccountName" not in group.pod:
            problem = "no serviceAccountName: to storage URIs the pods have the node's own rights"
            yield note(f"{group.place}.serviceAccountName", problem)


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name)) or redact(value) != value
