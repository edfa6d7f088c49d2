"""Access to parts of a KubeRay file, to check and change them."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from search.cluster.kuberay_file import check_kuberay_file

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = ROOT / "deploy" / "kuberay.yaml"
Change = Callable[[dict[str, Any]], object]


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


def errors_after(folder: Path, change: Change) -> list[str]:
    """The errors of the packaged file after a change, as `place: problem`."""
    file = yaml.safe_load(PACKAGED.read_text(encoding="utf-8"))
    change(file)
    (folder / "deploy").mkdir(exist_ok=True)
    path = folder / "deploy" / "kuberay.yaml"
    path.write_text(yaml.safe_dump(file), encoding="utf-8")
    (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    return [f"{f.place}: {f.problem}" for f in check_kuberay_file(path) if f.is_error]


def with_volume(file: dict[str, Any]) -> None:
    """Add a file system that every pod mounts, as the comment at the top of the file describes."""
    lines = re.findall(r"^#   volume\w+: .*", PACKAGED.read_text(encoding="utf-8"), re.MULTILINE)
    volume, mount = (next(iter(yaml.safe_load(line[1:]).values()))[0] for line in lines)
    command(file, "s3://REPLACE/", f"{mount['mountPath']}/")
    for group in (head(file), worker(file)):
        container(group)["volumeMounts"].append(dict(mount))
        pod(group)["volumes"].append(copy.deepcopy(volume))
        del pod(group)["serviceAccountName"]
