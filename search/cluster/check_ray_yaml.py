"""What is wrong with a Ray cluster file, before a machine is paid for.

Ray's own validation first, then what it lets through: misspelt keys below `provider` and
`node_config`, missing images and set-up commands, zones of another region, GPU counts that are not
the machine's, versions that do not fit, doors left open. Nothing is fetched, nothing is started.
"""

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import did_you_mean, first_line
from search.cluster.aws_facts import CPUS_AND_GPUS, MARKET_KEYS, NODE_KEYS, PROVIDER_KEYS
from trainable.config.strict_yaml import read_settings

PLACEHOLDER = "REPLACE"
_LOCALHOST = ("127.0.0.1", "localhost", "::1")
_UPLOADS = ("**/.git", "**/data", "**/runs")


@dataclass(frozen=True)
class Finding:
    """Something about a cluster file."""

    is_red: bool  # else worth knowing
    place: str  # dotted
    problem: str


def check_cluster_file(path: Path) -> list[Finding]:
    """All findings, the red ones first.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    written = read_settings(path)
    found = [*_by_ray(written)]
    if isinstance(written.get("available_node_types"), dict):
        found += _provider(written)
        found += _nodes(written)
        found += _commands(written)
        found += _doors(written)
        found += _versions(written, path)
    found += _worth_knowing(written)
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda finding: not finding.is_red)


def red(place: str, problem: str) -> Finding:
    return Finding(True, place, problem)


def _by_ray(written: dict[str, Any]) -> Iterator[Finding]:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import check_legacy_fields, prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        prepared = prepare_config(copy.deepcopy(written))
        validate_config(prepared)
        check_legacy_fields(prepared)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path) or "the file"
        yield red(place, first_line(error))
    except Exception as error:  # whatever Ray raises, it will not start this cluster
        yield red("the file", f"Ray refuses it: {type(error).__name__}: {error}")
    for key in ("min_workers", "initial_workers", "worker_nodes", "head_node"):
        if key in written:
            yield red(key, "is of an older form; Ray drops it, or breaks on it, in silence")


def _provider(written: dict[str, Any]) -> Iterator[Finding]:
    provider = mapping(written.get("provider"))
    if provider.get("type") != "aws":
        return
    yield from misspelt("provider", provider, PROVIDER_KEYS)
    region = str(provider.get("region", ""))
    zones = str(provider.get("availability_zone") or "").split(",")
    for zone in filter(None, map(str.strip, zones)):
        if not re.fullmatch(re.escape(region) + "[a-z]", zone):
            yield red("provider.availability_zone", f"{zone} is not a zone of {region}")


def _nodes(written: dict[str, Any]) -> Iterator[Finding]:
    is_aws = mapping(written.get("provider")).get("type") == "aws"
    for name, node in written["available_node_types"].items():
        config = mapping(mapping(node).get("node_config"))
        place = f"available_node_types.{name}"
        if not is_aws:
            continue
        yield from misspelt(f"{place}.node_config", config, NODE_KEYS)
        if not str(config.get("ImageId", "")).startswith("ami-"):
            what = "is missing: Ray's default image is too old" if "ImageId" not in config else ""
            problem = what or f"{config['ImageId']!r} is no image id, ami-..."
            yield red(f"{place}.node_config.ImageId", problem)
        yield from _market(written, name, config, place)
        yield from _counts(mapping(mapping(node).get("resources")), config, place)


def _market(
    written: dict[str, Any], name: str, config: Mapping[str, Any], place: str
) -> Iterator[Finding]:
    market = config.get("InstanceMarketOptions")
    if market is None:
        return
    where = f"{place}.node_config.InstanceMarketOptions"
    yield from misspelt(where, mapping(market), MARKET_KEYS)
    kind = mapping(market).get("MarketType")
    if kind not in ("spot", "capacity-block"):
        yield red(f"{where}.MarketType", f"{kind!r} is no market; spot, or capacity-block")
    if name == written.get("head_node_type"):
        yield red(where, "the head must be on demand: when it is taken away the cluster is gone")


def _counts(
    resources: Mapping[str, Any], config: Mapping[str, Any], place: str
) -> Iterator[Finding]:
    machine = config.get("InstanceType")
    known = CPUS_AND_GPUS.get(str(machine))
    if known is None:
        return
    for key, number in zip(("CPU", "GPU"), known, strict=True):
        asked = resources.get(key)
        if isinstance(asked, int) and (asked > number or (key == "GPU" and asked < number)):
            yield red(f"{place}.resources.{key}", f"is {asked}; a {machine} has {number}")


def _commands(written: dict[str, Any]) -> Iterator[Finding]:
    if not written.get("setup_commands"):
        yield red("setup_commands", "is missing: Ray would install a nightly version of itself")
    is_aws = mapping(written.get("provider")).get("type") == "aws"
    if is_aws and "boto3" not in " ".join(map(str, written.get("head_setup_commands") or [])):
        yield red("head_setup_commands", "does not install boto3, which starts the workers")


def _doors(written: dict[str, Any]) -> Iterator[Finding]:
    commands = " ".join(map(str, written.get("head_start_ray_commands") or []))
    for host in re.findall(r"--dashboard-host[= ](\S+)", commands):
        if host not in _LOCALHOST:
            problem = f"the dashboard listens on {host}; it runs code for whoever reaches it"
            yield red("head_start_ray_commands", f"{problem}: --dashboard-host=127.0.0.1")
    docker = mapping(written.get("docker"))
    options = [str(option) for option in docker.get("run_options") or []]
    start = [*map(str, written.get("worker_start_ray_commands") or []), commands]
    has_token = any("RAY_AUTH_MODE=token" in option for option in options) or all(
        "RAY_AUTH_MODE=token" in command for command in start
    )
    if not has_token:
        where = "docker.run_options" if docker else "head_start_ray_commands"
        yield red(where, "no RAY_AUTH_MODE=token: jobs are taken from whoever reaches the head")
        return
    if not any("auth_token" in str(path) for path in mapping(written.get("file_mounts"))):
        yield red("file_mounts", "token authentication is on and no node gets ~/.ray/auth_token")
    commands = " ".join(map(str, written.get("setup_commands") or []))
    if not re.search(r"chmod 0?[46]00 \S*auth_token", commands):
        yield red("setup_commands", "others on a node can read the token: chmod 600 auth_token")


def _versions(written: dict[str, Any], path: Path) -> Iterator[Finding]:
    image = str(mapping(written.get("docker")).get("image", ""))
    found = re.match(r"rayproject/ray[a-z-]*:(\d+\.\d+\.\d+)(?:-py(\d)(\d+))?", image)
    if found is None:
        return
    pinned = pinned_ray(path)
    if found[1] != pinned:
        yield red("docker.image", f"has Ray {found[1]}; the workers are set up with {pinned}")
    if found[2] and (int(found[2]), int(found[3])) < (3, 11):
        yield red("docker.image", f"has Python {found[2]}.{found[3]}; 3.11 or newer is needed")


def pinned_ray(path: Path) -> str:
    """As in the `constraints.txt` beside the file or its folder, else as installed here."""
    beside = [folder / "constraints.txt" for folder in (path.parent, path.absolute().parent.parent)]
    for constraints in filter(Path.is_file, beside):
        pinned = re.search(r"^ray==(\S+)$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
        if pinned is not None:
            return pinned[1]
    return version("ray")


def _worth_knowing(written: dict[str, Any]) -> Iterator[Finding]:
    for place, value in leaves(written, ""):
        if isinstance(value, str) and PLACEHOLDER in value:
            yield Finding(False, place, f"is still to be filled in: {value.strip()[:80]}")
    excluded = written.get("rsync_exclude") or []
    for pattern in _UPLOADS:
        if pattern not in excluded and written.get("file_mounts"):
            yield Finding(False, "rsync_exclude", f"lacks {pattern}: it goes to every node")
    types = mapping(written.get("available_node_types"))
    has_gpu = any(mapping(mapping(n).get("resources")).get("GPU") for n in types.values())
    if not has_gpu:
        yield Finding(False, "available_node_types", "no node has a GPU: trials train on CPUs")


def misspelt(
    place: str,
    given: Mapping[str, Any],
    known: frozenset[str],
    why: str = "; Ray would pass it on in silence",
) -> Iterator[Finding]:
    for key in given:
        if key not in known:
            yield red(f"{place}.{key}", f"no such key{did_you_mean(str(key), known)}{why}")


def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, place)
    else:
        yield place, value


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def refuse(path: Path, findings: list[Finding]) -> None:
    """Raises ConfigError when any finding is red."""
    count = sum(finding.is_red for finding in findings)
    if count:
        raise ConfigError(f"{path}: {count} thing(s) to mend before a machine is started")
