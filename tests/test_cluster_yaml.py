"""Requirements on cluster.yaml beyond those that `ensweep cluster check` checks in any file."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """The file with Ray's defaults merged in."""
    from ray.autoscaler._private.util import prepare_config

    merged: dict[str, Any] = prepare_config(copy.deepcopy(written))
    return merged


def test_the_image_has_the_pinned_ray_version(written: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert written["docker"]["image"] == f"rayproject/ray:{pinned[1]}-py311-gpu"
    install = " ".join(written["setup_commands"])
    assert "pip install -q -c constraints.txt -e ." in install


def test_every_node_requires_the_token(written: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in written["docker"]["run_options"]  # of all nodes
    assert written["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in written["setup_commands"]


def test_the_dashboard_listens_on_localhost(prepared: dict[str, Any]) -> None:
    commands = " ".join(prepared["head_start_ray_commands"])
    assert re.findall(r"--dashboard-host=(\S+)", commands) == ["127.0.0.1"]
    every = " ".join(prepared["worker_start_ray_commands"]) + commands
    assert "0.0.0.0" not in every
    assert "ray-client-server-port" not in every


def test_the_environment_of_the_head_sets_the_tracking_server(
    written: dict[str, Any],
) -> None:
    (option,) = written["docker"]["head_run_options"]
    assert re.fullmatch(r"--env MLFLOW_TRACKING_URI=http://[^@\s]+:5000", option)


@pytest.mark.parametrize("file", ["cluster.yaml", "deploy/kuberay.yaml"])
def test_the_command_for_the_tracking_server_is_valid(file: str) -> None:
    from mlflow.cli import server

    text = (ROOT / file).read_text(encoding="utf-8")
    command = re.search(r"# +mlflow server (.*)\n *# +(.*)", text)
    assert command is not None
    given = server.make_context("server", shlex.split(f"{command[1]} {command[2]}")).params
    assert given["artifacts_destination"] == "s3://REPLACE/mlflow"
    assert given["backend_store_uri"].startswith("postgresql://")
    (host,) = re.findall(r"MLFLOW_TRACKING_URI[^#\n]*http://(?:REPLACE-)?([^:\s]+):5000", text)
    assert given["allowed_hosts"] == f"{host}:*"


def test_images_are_pinned_and_only_gpu_nodes_are_spot_instances(prepared: dict[str, Any]) -> None:
    types = prepared["available_node_types"]
    for name, node in types.items():
        assert node["node_config"]["ImageId"].startswith("ami-"), name
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required", name
    assert types["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["gpu_spot"]["resources"]["GPU"] == 1
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["head"]["resources"]["GPU"] == 0


def test_no_file_system_is_shared_and_credentials_come_from_a_role(
    written: dict[str, Any],
) -> None:
    """A container reaches the metadata service, which gives the credentials, in two hops."""
    assert not any(option.startswith("-v") for option in written["docker"]["run_options"])
    assert "initialization_commands" not in written
    for name, node in written["available_node_types"].items():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("REPLACE"), name
        assert node["node_config"]["MetadataOptions"]["HttpPutResponseHopLimit"] == 2, name


def test_data_and_runs_are_not_uploaded(written: dict[str, Any]) -> None:
    assert {"**/.git", "**/data", "**/runs"} <= set(written["rsync_exclude"])
