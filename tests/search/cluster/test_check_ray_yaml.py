"""Mistakes in a cluster file are reported as errors; the packaged file has none."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from search.cluster.check_ray_yaml import check_cluster_file
from search.cluster.findings import refuse

ROOT = Path(__file__).resolve().parents[3]
Change = Callable[[dict[str, Any]], object]


def shipped() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return loaded


def worker(file: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = file["available_node_types"]["gpu_spot"]
    return node


def check(folder: Path, change: Change) -> list[str]:
    """The errors of the command after a change, as `place: problem`."""
    file = shipped()
    change(file)
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(file), encoding="utf-8")
    (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    done = CliRunner().invoke(app, ["cluster", "check", "--json", str(path)])
    found = [f for f in json.loads(done.stdout)["findings"] if f["is_error"]]
    if found:
        assert isinstance(done.exception, ConfigError)
        assert f"{len(found)} error(s) to fix" in str(done.exception)
    return [f"{f['place']}: {f['problem']}" for f in found]


def test_the_packaged_file_has_no_errors() -> None:
    done = CliRunner().invoke(app, ["cluster", "check", str(ROOT / "cluster.yaml")])
    assert done.exit_code == 0, done.output
    assert "no errors" in done.stdout
    found = check_cluster_file(ROOT / "cluster.yaml")
    assert [finding for finding in found if finding.is_error] == []
    places = {finding.place for finding in found}
    assert "available_node_types.head.node_config.ImageId" in places  # to be filled in
    refuse(ROOT / "cluster.yaml", found)


MISTAKES: dict[str, tuple[Change, str]] = {
    "an unknown key": (lambda f: f.update(clustr_name="x"), r"the file: .*clustr_name"),
    "a key under provider": (
        lambda f: f["provider"].update(regoin="us-east-1"),
        r"provider.regoin: no such key \(did you mean region\?\)",
    ),
    "a key under node_config": (
        lambda f: worker(f)["node_config"].update(InstanceTypo="g5.xlarge"),
        r"gpu_spot.node_config.InstanceTypo: no such key \(did you mean InstanceType\?\)",
    ),
    "an unknown market": (
        lambda f: worker(f)["node_config"]["InstanceMarketOptions"].update(MarketType="sp0t"),
        r"InstanceMarketOptions.MarketType: 'sp0t' is not one of",
    ),
    "no image": (
        lambda f: worker(f)["node_config"].pop("ImageId"),
        r"gpu_spot.node_config.ImageId: is missing",
    ),
    "a malformed image id": (
        lambda f: worker(f)["node_config"].update(ImageId="ubuntu"),
        r"ImageId: 'ubuntu' is no image id",
    ),
    "no setup commands": (lambda f: f.pop("setup_commands"), r"setup_commands: is missing"),
    "a zone of another region": (
        lambda f: f["provider"].update(availability_zone="us-east-1a,eu-west-1b"),
        r"provider.availability_zone: eu-west-1b is not a zone of us-east-1",
    ),
    "an open dashboard": (
        lambda f: f["head_start_ray_commands"].append("ray start --head --dashboard-host=0.0.0.0"),
        r"head_start_ray_commands: the dashboard listens on 0.0.0.0",
    ),
    "more GPUs than there are": (
        lambda f: worker(f)["resources"].update(GPU=2),
        r"gpu_spot.resources.GPU: is 2; a g5.xlarge has 1",
    ),
    "fewer GPUs than there are": (
        lambda f: worker(f)["node_config"].update(InstanceType="g5.12xlarge"),
        r"gpu_spot.resources.GPU: is 1; a g5.12xlarge has 4",
    ),
    "more CPUs than there are": (
        lambda f: worker(f)["resources"].update(CPU=16),
        r"gpu_spot.resources.CPU: is 16; a g5.xlarge has 4",
    ),
    "another version of Ray": (
        lambda f: f["docker"].update(image="rayproject/ray:2.40.0-py311-gpu"),
        r"docker.image: has Ray 2.40.0; the workers are set up with 2\.",
    ),
    "an old Python": (
        lambda f: f["docker"].update(image=f["docker"]["image"].replace("py311", "py39")),
        r"docker.image: has Python 3.9; 3.11 or newer",
    ),
    "no token": (
        lambda f: f["docker"].update(run_options=[]),
        r"docker.run_options: no RAY_AUTH_MODE=token",
    ),
    "a token that is not copied to the nodes": (
        lambda f: f["file_mounts"].pop("~/.ray/auth_token"),
        r"file_mounts: token authentication is on, but no node gets",
    ),
    "a token that others can read": (
        lambda f: f["setup_commands"].pop(0),
        r"setup_commands: other users of a node can read the token: chmod 600",
    ),
    "a head on the spot market": (
        lambda f: f["available_node_types"]["head"]["node_config"].update(
            InstanceMarketOptions={"MarketType": "spot"}
        ),
        r"head.node_config.InstanceMarketOptions: the head must be on demand",
    ),
    "a setting that Ray ignores": (lambda f: f.update(min_workers=2), r"min_workers: .*older form"),
    "a head that cannot start workers": (
        lambda f: f.update(head_setup_commands=[]),
        r"head_setup_commands: does not install boto3",
    ),
    "an unknown head type": (
        lambda f: f.update(head_node_type="haed"),
        r"the file: Ray refuses it: .*",
    ),
    "no resources": (lambda f: worker(f).pop("resources"), r"resources"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_an_error(tmp_path: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    errors = check(tmp_path, change)
    assert any(re.search(message, line) for line in errors), errors


def test_malformed_yaml_is_reported_with_its_position(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("cluster_name: [x\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cluster.yaml:2:1"):
        check_cluster_file(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="to fix"):
        refuse(path, check_cluster_file(path))
