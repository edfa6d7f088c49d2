"""Mistakes in a KubeRay file are reported as errors."""

import re
from pathlib import Path

import pytest
from kuberay import (
    Change,
    cluster,
    command,
    container,
    errors_after,
    head,
    limits,
    pod,
    with_volume,
    worker,
)

MISTAKES: dict[str, tuple[Change, str]] = {
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
    "a number in place of a string": (
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
    "no minimum of replicas": (
        lambda f: worker(f).pop("minReplicas"),
        r"gpu-spot.minReplicas: is missing",
    ),
    "no maximum of replicas": (
        lambda f: worker(f).pop("maxReplicas"),
        r"gpu-spot.maxReplicas: is missing",
    ),
    "a minimum above the maximum": (
        lambda f: worker(f).update(minReplicas=9),
        r"gpu-spot.minReplicas: is 9, above maxReplicas, 8",
    ),
    "no CPUs": (
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
    "a token only for the head": (
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
    "an environment of malformed YAML": (
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
    "a command of another program": (
        lambda f: f["spec"].update(entrypoint="python train.py"),
        r"spec.entrypoint: runs neither `ensweep sweep` nor",
    ),
    "an unknown sweep": (
        lambda f: command(f, "sweep cluster", "sweep clusterr"),
        r"spec.entrypoint: no sweep 'clusterr'; there are cluster,",
    ),
    "an unknown setting": (
        lambda f: command(f, "resources.max", "optim.lrr=1 resources.max"),
        r"spec.entrypoint: .*no key optim.lrr",
    ),
    "neither workers nor a number of concurrent trials": (
        lambda f: command(f, "resources.max_concurrent_trials=8", ""),
        r"spec.entrypoint: the cluster starts without workers",
    ),
    "a budget that starts again with each retry": (
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
    "a cluster that is not shut down": (
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
    "a public dashboard": (
        lambda f: head(f).update(serviceType="LoadBalancer"),
        r"headGroupSpec.serviceType: the dashboard runs code",
    ),
    "an ingress": (
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


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_an_error(tmp_path: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    errors = errors_after(tmp_path, change)
    assert any(re.search(message, line) for line in errors), errors
