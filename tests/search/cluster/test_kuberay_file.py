"""Each mistake that a KubeRay file can have is an error and named; the file that ships is not."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay import cluster, command, container, head, limits, pod, worker
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from search.cluster.kuberay_file import check_kuberay_file, is_kuberay_file

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "deploy" / "kuberay.yaml"
Change = Callable[[dict[str, Any]], object]


def check(folder: Path, change: Change) -> list[str]:
    """The errors after a change, as `place: problem`."""
    file = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    change(file)
    (folder / "deploy").mkdir(exist_ok=True)
    path = folder / "deploy" / "kuberay.yaml"
    path.write_text(yaml.safe_dump(file), encoding="utf-8")
    (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    return [f"{f.place}: {f.problem}" for f in check_kuberay_file(path) if f.is_error]


def test_the_file_that_ships_has_no_errors() -> None:
    found = check_kuberay_file(SHIPPED)
    assert [finding for finding in found if finding.is_error] == []
    assert {finding.problem.partition(":")[0] for finding in found} == {"is still to be filled in"}


def test_the_file_that_ships_needs_no_shared_volume_and_no_keys(tmp_path: Path) -> None:
    file = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
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


def test_ray_is_that_of_the_constraints() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    image = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{pinned[1]}-py311-gpu\n" in image
    assert f"ensweep:ray{pinned[1]}-py311-gpu" in image
    assert f'rayVersion: "{pinned[1]}"' in SHIPPED.read_text(encoding="utf-8")


def with_volume(file: dict[str, Any]) -> None:
    """A file system that every pod mounts, as the comment at the top says."""
    lines = re.findall(r"^#   volume\w+: .*", SHIPPED.read_text(encoding="utf-8"), re.MULTILINE)
    volume, mount = (next(iter(yaml.safe_load(line[1:]).values()))[0] for line in lines)
    command(file, "s3://REPLACE/", f"{mount['mountPath']}/")
    for group in (head(file), worker(file)):
        container(group)["volumeMounts"].append(dict(mount))
        pod(group)["volumes"].append(copy.deepcopy(volume))
        del pod(group)["serviceAccountName"]


FAULTS: dict[str, tuple[Change, str]] = {
    "another kind": (lambda f: f.update(kind="RayService"), r"kind: is 'RayService'"),
    "a misspelt key of the job": (
        lambda f: f["spec"].update(backofLimit=3),
        r"spec.backofLimit: no such key \(did you mean backoffLimit\?\)",
    ),
    "a misspelt key of the cluster": (
        lambda f: cluster(f).update(autoscalerOption={}),
        r"rayClusterSpec.autoscalerOption: no such key \(did you mean autoscalerOptions\?\)",
    ),
    "a misspelt key of a group": (
        lambda f: worker(f).update(maxReplica=9),
        r"gpu-spot.maxReplica: no such key \(did you mean maxReplicas\?\)",
    ),
    "a misspelt key of the autoscaler": (
        lambda f: cluster(f)["autoscalerOptions"].update(idleTimeoutSecond=1),
        r"autoscalerOptions.idleTimeoutSecond: no such key \(did you mean idleTimeoutSeconds\?\)",
    ),
    "a key of the head at a worker": (
        lambda f: worker(f).update(serviceType="ClusterIP"),
        r"workerGroupSpecs.gpu-spot.serviceType: no such key",
    ),
    "a number where the operator takes text": (
        lambda f: head(f)["rayStartParams"].update({"num-cpus": 0}),
        r"headGroupSpec.rayStartParams.num-cpus: 0 is not of type 'string'",
    ),
    "a misspelt GPU": (
        lambda f: limits(worker(f)).update(
            {"nvidia.com/gpus": limits(worker(f)).pop("nvidia.com/gpu")}
        ),
        r"limits.nvidia.com/gpus: no such key \(did you mean nvidia.com/gpu\?\); no node has it",
    ),
    "no GPU for the trials": (
        lambda f: limits(worker(f)).pop("nvidia.com/gpu"),
        r"workerGroupSpecs: a trial needs 1 GPU\(s\), a worker has 0",
    ),
    "fewer GPUs than a trial needs": (
        lambda f: command(f, "resources.max", "resources.gpus_per_trial=2 resources.max"),
        r"workerGroupSpecs: a trial needs 2 GPU\(s\), a worker has 1",
    ),
    "a GPU under requests alone": (
        lambda f: container(worker(f))["resources"]["requests"].update(
            {"nvidia.com/gpu": limits(worker(f)).pop("nvidia.com/gpu")}
        ),
        r"requests.nvidia.com/gpu: GPUs must be given under limits",
    ),
    "no workers": (
        lambda f: cluster(f).update(workerGroupSpecs=[]),
        r"workerGroupSpecs: no workers",
    ),
    "no least number": (
        lambda f: worker(f).pop("minReplicas"),
        r"gpu-spot.minReplicas: is missing",
    ),
    "no greatest number": (
        lambda f: worker(f).pop("maxReplicas"),
        r"gpu-spot.maxReplicas: is missing",
    ),
    "numbers the wrong way round": (
        lambda f: worker(f).update(minReplicas=9),
        r"gpu-spot.minReplicas: is 9, above maxReplicas, 8",
    ),
    "no CPUs to count": (
        lambda f: container(worker(f)).pop("resources"),
        r"rayClusterSpec: Ray refuses it: ValueError: Autoscaler failed to detect `CPU`",
    ),
    "a sidecar before Ray's container": (
        lambda f: pod(worker(f))["containers"].insert(0, {"name": "log", "image": "x:1"}),
        r"rayClusterSpec: Ray refuses it: ValueError: Autoscaler failed to detect `CPU`",
    ),
    "no name of a group": (
        lambda f: worker(f).pop("groupName"),
        r"rayClusterSpec: Ray refuses it: 'groupName' is missing",
    ),
    "another version than the image's": (
        lambda f: container(worker(f)).update(image="x/ensweep:ray2.40.0-gpu"),
        r"gpu-spot.image: has Ray 2.40.0; rayVersion is 2\.",
    ),
    "nodes of two images": (
        lambda f: container(worker(f)).update(image="x/ensweep:ray2.40.0-gpu"),
        r"rayClusterSpec: groups have different images",
    ),
    "another version than the constraints'": (
        lambda f: cluster(f).update(rayVersion="2.40.0"),
        r"rayClusterSpec.rayVersion: is 2.40.0; 2\.\d+\.\d+ is tested",
    ),
    "no version": (lambda f: cluster(f).pop("rayVersion"), r"rayVersion: is missing"),
    "the latest image": (
        lambda f: container(head(f)).update(image="x/ensweep:latest"),
        r"headGroupSpec.image: its tag names no version of Ray",
    ),
    "no token": (
        lambda f: cluster(f).pop("authOptions"),
        r"rayClusterSpec.authOptions: no token",
    ),
    "a token of the head alone": (
        lambda f: (
            cluster(f).pop("authOptions"),
            container(head(f))["env"].extend(
                [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN_PATH"}]
            ),
        ),
        r"gpu-spot.env: no RAY_AUTH_MODE=token, but other groups have it",
    ),
    "a token in the file": (
        lambda f: container(head(f))["env"].append({"name": "RAY_AUTH_TOKEN", "value": "x"}),
        r"headGroupSpec.env.RAY_AUTH_TOKEN: the file contains a secret",
    ),
    "a password in the tracking server's address": (
        lambda f: container(head(f))["env"].append(
            {"name": "MLFLOW_TRACKING_URI", "value": "http://me:secret@mlflow:5000"}
        ),
        r"headGroupSpec.env.MLFLOW_TRACKING_URI: the file contains a secret",
    ),
    "a secret with the job": (
        lambda f: f["spec"].update(runtimeEnvYAML="env_vars: {HF_TOKEN: x}"),
        r"spec.runtimeEnvYAML.HF_TOKEN: a secret is shown with the job",
    ),
    "an environment that is no YAML": (
        lambda f: f["spec"].update(runtimeEnvYAML="env_vars: [x"),
        r"spec.runtimeEnvYAML: .*",
    ),
    "a command that runs once": (
        lambda f: command(f, "--resume-if-begun", ""),
        r"spec.entrypoint: cannot be run again",
    ),
    "a command without a name": (
        lambda f: command(f, "--name cluster-1", ""),
        r"spec.entrypoint: cannot be run again",
    ),
    "a command that is not ours": (
        lambda f: f["spec"].update(entrypoint="python train.py"),
        r"spec.entrypoint: runs neither `ensweep sweep` nor",
    ),
    "a sweep that is not there": (
        lambda f: command(f, "sweep cluster", "sweep clusterr"),
        r"spec.entrypoint: no sweep 'clusterr'; there are cluster,",
    ),
    "a setting that is not there": (
        lambda f: command(f, "resources.max", "optim.lrr=1 resources.max"),
        r"spec.entrypoint: .*no key optim.lrr",
    ),
    "nothing to count trials by": (
        lambda f: command(f, "resources.max_concurrent_trials=8", ""),
        r"spec.entrypoint: the cluster starts without workers",
    ),
    "a budget that each retry begins anew": (
        lambda f: command(f, "--max-gpu-hours 200", "--max-hours 20"),
        r"spec.entrypoint: --max-hours starts again",
    ),
    "results in the pod": (
        lambda f: command(f, "--storage s3://REPLACE/runs", ""),
        r"spec.entrypoint: no --storage",
    ),
    "data on no volume": (
        lambda f: (with_volume(f), command(f, "/mnt/ensweep/data", "/data")),
        r"gpu-spot.volumeMounts: --data-dir /data is on none",
    ),
    "a worker without the volume": (
        lambda f: (with_volume(f), container(worker(f)).update(volumeMounts=[])),
        r"gpu-spot.volumeMounts: --storage /mnt/ensweep/runs is on none",
    ),
    "a cluster that stays": (
        lambda f: f["spec"].pop("shutdownAfterJobFinishes"),
        r"spec.shutdownAfterJobFinishes: is not true",
    ),
    "a head with a GPU": (
        lambda f: limits(head(f)).update({"nvidia.com/gpu": 1}),
        r"headGroupSpec.resources: the head has a GPU",
    ),
    "a head that runs trials": (
        lambda f: head(f)["rayStartParams"].pop("num-cpus"),
        r'rayStartParams.num-cpus: is not "0"',
    ),
    "a head on a spot node": (
        lambda f: pod(head(f)).update(nodeSelector={"cloud.google.com/gke-spot": "true"}),
        r"headGroupSpec.nodeSelector: the head must not be on spot nodes",
    ),
    "a dashboard for everyone": (
        lambda f: head(f).update(serviceType="LoadBalancer"),
        r"headGroupSpec.serviceType: the dashboard runs code",
    ),
    "a way in from outside": (
        lambda f: head(f).update(enableIngress=True),
        r"headGroupSpec.enableIngress: exposes the dashboard",
    ),
    "a dashboard that the submitter cannot reach": (
        lambda f: head(f)["rayStartParams"].update({"dashboard-host": "127.0.0.1"}),
        r"rayStartParams.dashboard-host: the pod that submits the job cannot reach it",
    ),
    "no time for a checkpoint": (
        lambda f: pod(worker(f)).update(terminationGracePeriodSeconds=5),
        r"gpu-spot.terminationGracePeriodSeconds: is 5",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_error(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    errors = check(tmp_path, change)
    assert any(re.search(message, line) for line in errors), errors


def by_environment(file: dict[str, Any]) -> None:
    cluster(file).pop("authOptions")
    secret = {"secretKeyRef": {"name": "ray", "key": "auth_token"}}
    for group in (head(file), worker(file)):
        container(group)["env"] += [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": copy.deepcopy(secret)},
        ]


GOOD: dict[str, Change] = {
    "as it is": copy.copy,
    "the token from the environment": by_environment,
    "a sweep of your own": lambda f: command(f, "sweep cluster", "sweep /mnt/ensweep/mine.yaml"),
    "workers from the start": lambda f: (
        worker(f).update(replicas=2),
        command(f, "resources.max_concurrent_trials=8", ""),
    ),
    "half a GPU each": lambda f: command(
        f, "resources.max", "resources.gpus_per_trial=0.5 resources.max"
    ),
    "a shared volume": with_volume,
    "data by URI": lambda f: (
        with_volume(f),
        command(f, "/mnt/ensweep/data", "s3://bucket/data"),
    ),
    "an option spelled with =": lambda f: command(f, "--name cluster-1", "--name=cluster-1"),
}


@pytest.mark.parametrize("change", GOOD)
def test_what_is_right_is_no_error(tmp_path: Path, change: str) -> None:
    assert check(tmp_path, GOOD[change]) == []


@pytest.mark.parametrize("key", ["spec", "metadata"])
@pytest.mark.parametrize("value", [None, [], "x", {}])
def test_a_file_of_another_form_is_error_not_a_crash(tmp_path: Path, key: str, value: Any) -> None:
    errors = check(tmp_path, lambda f: f.update({key: value}))
    assert bool(errors) == (key == "spec")


def test_the_command_line_tells_the_two_kinds_of_file_apart(tmp_path: Path) -> None:
    assert is_kuberay_file(SHIPPED)
    assert not is_kuberay_file(ROOT / "cluster.yaml")
    done = CliRunner().invoke(app, ["cluster", "check", str(SHIPPED)])
    assert done.exit_code == 0, done.output
    assert "no errors" in done.stdout
    path = tmp_path / "kuberay.yaml"
    path.write_text("apiVersion: ray.io/v1\nkind: RayJob\nspec: {}\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["cluster", "check", "--json", str(path)])
    assert isinstance(done.exception, ConfigError)
    assert any(f["is_error"] for f in json.loads(done.stdout)["findings"])
