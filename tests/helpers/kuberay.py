"""Access to parts of a KubeRay file, to check and change them."""

from typing import Any


def cluster(file: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = file["spec"]["rayClusterSpec"]
    return spec


def head(file: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = cluster(file)["headGroupSpec"]
    return group


def worker(file: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = cluster(file)["workerGroupSpecs"][0]
    return group


def pod(group: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = group["template"]["spec"]
    return spec


def container(group: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = pod(group)["containers"][0]
    return first


def limits(group: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = container(group)["resources"]["limits"]
    return limits


def command(file: dict[str, Any], old: str, new: str) -> None:
    assert old in file["spec"]["entrypoint"]
    file["spec"]["entrypoint"] = file["spec"]["entrypoint"].replace(old, new)
