"""KubeRay files without errors; those with errors: `test_kuberay_mistakes.py`."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay import (
    PACKAGED,
    ROOT,
    Change,
    cluster,
    command,
    container,
    errors_after,
    head,
    pod,
    with_volume,
    worker,
)
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from search.cluster.kuberay_file import check_kuberay_file, is_kuberay_file


def test_the_packaged_file_has_no_errors() -> None:
    found = check_kuberay_file(PACKAGED)
    assert [finding for finding in found if finding.is_error] == []
    assert {finding.problem.partition(":")[0] for finding in found} == {"is still to be filled in"}


def test_the_packaged_file_needs_no_shared_volume_and_no_keys(tmp_path: Path) -> None:
    file = yaml.safe_load(PACKAGED.read_text(encoding="utf-8"))
    for group in (head(file), worker(file)):
        assert all("emptyDir" in volume for volume in pod(group)["volumes"])
        assert pod(group)["serviceAccountName"] == "REPLACE-ensweep"
        del pod(group)["serviceAccountName"]
    path = tmp_path / "kuberay.yaml"
    path.write_text(yaml.safe_dump(file), encoding="utf-8")
    places = [f.place for f in check_kuberay_file(path) if "no serviceAccountName" in f.problem]
    assert [place.rpartition(".")[0].rpartition(".")[2] for place in places] == [
        "headGroupSpec",
        "gpu-spot",
    ]


def test_the_packaged_file_has_the_pinned_version_of_ray() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    image = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{pinned[1]}-py311-gpu\n" in image
    assert f"ensweep:ray{pinned[1]}-py311-gpu" in image
    assert f'rayVersion: "{pinned[1]}"' in PACKAGED.read_text(encoding="utf-8")


def with_token_from_environment(file: dict[str, Any]) -> None:
    cluster(file).pop("authOptions")
    secret = {"secretKeyRef": {"name": "ray", "key": "auth_token"}}
    for group in (head(file), worker(file)):
        container(group)["env"] += [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": copy.deepcopy(secret)},
        ]


VALID: dict[str, Change] = {
    "unchanged": copy.copy,
    "the token from the environment": with_token_from_environment,
    "a sweep of your own": lambda f: command(f, "sweep cluster", "sweep /mnt/ensweep/mine.yaml"),
    "workers from the start": lambda f: (
        worker(f).update(replicas=2),
        command(f, "resources.max_concurrent_trials=8", ""),
    ),
    "half a GPU for each trial": lambda f: command(
        f, "resources.max", "resources.gpus_per_trial=0.5 resources.max"
    ),
    "a shared volume": with_volume,
    "data at a URI": lambda f: (
        with_volume(f),
        command(f, "/mnt/ensweep/data", "s3://bucket/data"),
    ),
    "an option written with =": lambda f: command(f, "--name cluster-1", "--name=cluster-1"),
}


@pytest.mark.parametrize("change", VALID)
def test_valid_changes_are_no_errors(tmp_path: Path, change: str) -> None:
    assert errors_after(tmp_path, VALID[change]) == []


@pytest.mark.parametrize("key", ["spec", "metadata"])
@pytest.mark.parametrize("value", [None, [], "x", {}])
def test_malformed_parts_are_errors_not_crashes(tmp_path: Path, key: str, value: Any) -> None:
    errors = errors_after(tmp_path, lambda f: f.update({key: value}))
    assert bool(errors) == (key == "spec")


def test_the_command_recognises_the_kind_of_file(tmp_path: Path) -> None:
    assert is_kuberay_file(PACKAGED)
    assert not is_kuberay_file(ROOT / "cluster.yaml")
    done = CliRunner().invoke(app, ["cluster", "check", str(PACKAGED)])
    assert done.exit_code == 0, done.output
    assert "no errors" in done.stdout
    path = tmp_path / "kuberay.yaml"
    path.write_text("apiVersion: ray.io/v1\nkind: RayJob\nspec: {}\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["cluster", "check", "--json", str(path)])
    assert isinstance(done.exception, ConfigError)
    assert any(f["is_error"] for f in json.loads(done.stdout)["findings"])
