"""Check a Ray cluster file (`ray up`) before any machine is started.

Runs Ray's own validation, then checks what it accepts: misspelt keys below `provider` and
`node_config`, missing images and setup commands, zones of another region, GPU counts that differ
from the machine's, versions that do not match, open access. Nothing is fetched or started.
"""

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import ValidationError

from mlflow_setup.text import first_line
from search.cluster.findings import (
    Finding,
    error,
    errors_first,
    facts,
    mapping,
    note,
    pinned_ray,
    placeholders,
    strings,
    validate,
)
from trainable.config.strict_yaml import read_settings

_AWS = facts("aws.json")
_PASSED_ON = "; Ray would pass it on without a warning"
_LOCALHOST = ("127.0.0.1", "localhost", "::1")
_UPLOADS = ("**/.git", "**/data", "**/runs")


def check_cluster_file(path: Path) -> list[Finding]:
    """Return all findings, errors first.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    written = read_settings(path)
    findings = [*_by_ray(written)]
    if isinstance(written.get("available_node_types"), dict):
        findings += _provider(written)
        findings += _nodes(written)
        findings += _commands(written)
        findings += _access(written)
        findings += _versions(written, path)
    return errors_first([*findings, *placeholders(written), *_warnings(written)])


def _by_ray(written: dict[str, Any]) -> Iterator[Finding]:
    from ray.autoscaler._private.util import check_legacy_fields, prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        prepared = prepare_config(copy.deepcopy(written))
        validate_config(prepared)
        check_legacy_fields(prepared)
    except ValidationError as fault:
        place = ".".join(str(part) for part in fault.absolute_path) or "the file"
        yield error(place, first_line(fault))
    except Exception as fault:  # whatever Ray raises, it will not start this cluster
        yield error("the file", f"Ray refuses it: {type(fault).__name__}: {fault}")
    for key in ("min_workers", "initial_workers", "worker_nodes", "head_node"):
        if key in written:
            yield error(key, "is from an older format: Ray ignores it or fails without a message")


def _provider(written: dict[str, Any]) -> Iterator[Finding]:
    provider = mapping(written.get("provider"))
    if provider.get("type") != "aws":
        return
    yield from validate(_AWS["provider"], provider, "provider", _PASSED_ON)
    region = str(provider.get("region", ""))
    zones = str(provider.get("availability_zone") or "").split(",")
    for zone in filter(None, map(str.strip, zones)):
        if not re.fullmatch(re.escape(region) + "[a-z]", zone):
            yield error("provider.availability_zone", f"{zone} is not a zone of {region}")


def _nodes(written: dict[str, Any]) -> Iterator[Finding]:
    is_aws = mapping(written.get("provider")).get("type") == "aws"
    for name, node in written["available_node_types"].items():
        config = mapping(mapping(node).get("node_config"))
        place = f"available_node_types.{name}"
        if not is_aws:
            continue
        yield from validate(_AWS["node_config"], config, f"{place}.node_config", _PASSED_ON)
        if "ImageId" not in config:
            problem = "is missing: Ray's default image is too old"
            yield error(f"{place}.node_config.ImageId", problem)
        elif not str(config["ImageId"]).startswith("ami-"):
            problem = f"{config['ImageId']!r} is no image id, ami-..."
            yield error(f"{place}.node_config.ImageId", problem)
        if name == written.get("head_node_type") and "InstanceMarketOptions" in config:
            problem = "the head must be on demand: the cluster ends when a spot head is reclaimed"
            yield error(f"{place}.node_config.InstanceMarketOptions", problem)
        yield from _counts(mapping(mapping(node).get("resources")), config, place)


def _counts(
    resources: Mapping[str, Any], config: Mapping[str, Any], place: str
) -> Iterator[Finding]:
    machine = config.get("InstanceType")
    known = _AWS["machines"].get(str(machine))
    if known is None:
        return
    for key, number in zip(("CPU", "GPU"), known, strict=True):
        given = resources.get(key)
        if isinstance(given, int) and (given > number or (key == "GPU" and given < number)):
            yield error(f"{place}.resources.{key}", f"is {given}; a {machine} has {number}")


def _commands(written: dict[str, Any]) -> Iterator[Finding]:
    if not written.get("setup_commands"):
        yield error("setup_commands", "is missing: Ray would install a nightly version of itself")
    is_aws = mapping(written.get("provider")).get("type") == "aws"
    if is_aws and "boto3" not in " ".join(strings(written.get("head_setup_commands"))):
        yield error("head_setup_commands", "does not install boto3, which Ray needs on the head")


def _access(written: dict[str, Any]) -> Iterator[Finding]:
    commands = " ".join(strings(written.get("head_start_ray_commands")))
    for host in re.findall(r"--dashboard-host[= ](\S+)", commands):
        if host not in _LOCALHOST:
            problem = f"the dashboard listens on {host}; it runs code for anyone who can reach it"
            yield error("head_start_ray_commands", f"{problem}: --dashboard-host=127.0.0.1")
    docker = mapping(written.get("docker"))
    options = strings(docker.get("run_options"))
    start = [*strings(written.get("worker_start_ray_commands")), commands]
    has_token = any("RAY_AUTH_MODE=token" in option for option in options) or all(
        "RAY_AUTH_MODE=token" in command for command in start
    )
    if not has_token:
        where = "docker.run_options" if docker else "head_start_ray_commands"
        yield error(where, "no RAY_AUTH_MODE=token: any client of the head may submit jobs")
        return
    if not any("auth_token" in str(path) for path in mapping(written.get("file_mounts"))):
        yield error("file_mounts", "token authentication is on, but no node gets ~/.ray/auth_token")
    commands = " ".join(strings(written.get("setup_commands")))
    if not re.search(r"chmod 0?[46]00 \S*auth_token", commands):
        problem = "other users of a node can read the token: chmod 600 auth_token"
        yield error("setup_commands", problem)


def _versions(written: dict[str, Any], path: Path) -> Iterator[Finding]:
    image = str(mapping(written.get("docker")).get("image", ""))
    match = re.match(r"rayproject/ray[a-z-]*:(\d+\.\d+\.\d+)(?:-py(\d)(\d+))?", image)
    if match is None:
        return
    pinned = pinned_ray(path)
    if match[1] != pinned:
        yield error("docker.image", f"has Ray {match[1]}; the workers are set up with {pinned}")
    if match[2] and (int(match[2]), int(match[3])) < (3, 11):
        yield error("docker.image", f"has Python {match[2]}.{match[3]}; 3.11 or newer is needed")


def _warnings(written: dict[str, Any]) -> Iterator[Finding]:
    excluded = strings(written.get("rsync_exclude"))
    for pattern in _UPLOADS:
        if pattern not in excluded and written.get("file_mounts"):
            yield note("rsync_exclude", f"lacks {pattern}: it is copied to every node")
    types = mapping(written.get("available_node_types"))
    has_gpu = any(mapping(mapping(n).get("resources")).get("GPU") for n in types.values())
    if not has_gpu:
        yield note("available_node_types", "no node has a GPU: trials train on CPUs")
