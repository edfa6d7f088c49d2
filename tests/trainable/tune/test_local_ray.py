"""Starting Ray on this machine: checks before it, and waiting for a slow start."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import ray
from ray._private import services
from ray._private.node import Node as RayNode

from mlflow_setup.errors import ConfigError
from trainable.tune import local_ray
from trainable.tune.cluster import cluster
from trainable.tune.local_ray import check_ray_can_start, keep_token_without_home

pytestmark = pytest.mark.usefixtures("_without_ray")


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("kind", ["too long", "read-only"])
def test_a_folder_in_which_ray_cannot_start_is_refused(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 60) if kind == "too long" else Path("/proc/self/task")
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder) if name == "TMPDIR" else None)
    message = "107" if kind == "too long" else "cannot be written"
    with pytest.raises(ConfigError, match=message) as caught, cluster():
        pass
    assert caught.value.problem.startswith(f"{name}={folder}: ")
    assert f"{name}=/tmp" in str(caught.value.fix)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:1")  # a remote cluster has its own folder
    check_ray_can_start()


@pytest.mark.parametrize("home", ["read-only", "none", "writable"])
def test_without_a_writable_home_the_token_is_in_the_environment(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("HOME", str(tmp_path) if home == "writable" else "/proc/self/task")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")  # so that it is restored afterwards
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    if home == "none":
        monkeypatch.setattr(Path, "home", none)
    keep_token_without_home()
    token = os.environ.get("RAY_AUTH_TOKEN")
    assert token is None if home == "writable" else len(str(token)) == 64


class SlowNode:
    """A fake node of Ray, which is registered after `looks` look-ups; one of its processes dies
    after `lives` calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, looks: int, lives: int = 1000) -> None:
        self.looks, self.lives, self.calls = looks, lives, list[str]()
        self.clock = SimpleNamespace(monotonic=lambda: self.seconds, sleep=self._sleep)
        self.seconds = 0.0
        monkeypatch.setattr(local_ray, "time", self.clock)
        monkeypatch.setattr(services, "get_node", self._get_node)
        monkeypatch.setattr(RayNode, "start_ray_processes", lambda _: self.calls.append("start"))
        monkeypatch.setattr(ray, "init", lambda *_, **__: RayNode.start_ray_processes(self.node))

    @property
    def node(self) -> RayNode:
        node = SimpleNamespace(
            gcs_address="127.0.0.1:1",
            node_id="ab",
            dead_processes=lambda: ["raylet"] if len(self.calls) > self.lives else [],
        )
        return cast(RayNode, node)

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def _get_node(self, address: str, node_id: str) -> None:
        assert (address, node_id) == ("127.0.0.1:1", "ab")
        self.calls.append("look")
        if len(self.calls) <= self.looks:
            raise RuntimeError("no such node")


def test_a_start_may_take_longer_than_the_limit_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    original = RayNode.start_ray_processes
    slow = SlowNode(monkeypatch, looks=500)  # every tenth of a second
    replaced = RayNode.start_ray_processes
    local_ray.start(None)
    assert slow.calls == ["start"] + ["look"] * 500
    assert slow.seconds > 30
    assert RayNode.start_ray_processes is replaced is not original


@pytest.mark.parametrize(("lives", "looks"), [(4, 4), (5000, 1200)])
def test_waiting_ends_if_the_start_fails(
    lives: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a process dies or after 2 minutes. Ray itself then raises the error."""
    slow = SlowNode(monkeypatch, looks=10_000, lives=lives)
    local_ray.start(None)
    assert len(slow.calls) - 1 == pytest.approx(looks, abs=1)
