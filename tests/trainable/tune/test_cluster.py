"""Connecting to a Ray cluster or starting one: environment, errors, background start, nodes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
from patience import PATIENCE
from ray._private.node import Node as RayNode

from mlflow_setup.errors import ConfigError
from trainable.tune.cluster import (
    Node,
    _worker_environment,
    cluster,
    environment,
    starting_ahead,
)
from trainable.tune.local_ray import HELPERS

pytestmark = pytest.mark.usefixtures("_without_ray")
ROOT = Path(__file__).resolve().parents[3]


class FakeRay:
    """Records when Ray is started and shut down, and the helper processes that it starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, problem: str = "") -> None:
        self.problem, self.calls, self.helpers = problem, list[str](), list[object]()
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "shutdown", lambda: self.calls.append("shutdown"))
        monkeypatch.setattr(ray, "nodes", list)

    def init(self, *_: object, **__: object) -> None:
        self.thread = threading.current_thread()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        self.helpers = [getattr(RayNode, name)(None) for name in HELPERS]
        if self.problem:
            raise RuntimeError(self.problem)
        self.calls.append("init")


def test_a_ray_that_is_started_ahead_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeRay(monkeypatch)
    own = [getattr(RayNode, name) for name in HELPERS]  # fails if Ray renames them
    with starting_ahead():
        with cluster() as nodes:
            assert nodes == []
            assert started.calls == ["init"]
            assert started.thread.is_alive()  # else Linux would end Ray's processes
        assert started.calls == ["init", "shutdown"]
    started.thread.join(10)
    assert started.calls == ["init", "shutdown"]
    assert started.helpers == [None] * len(HELPERS)
    assert [getattr(RayNode, name) for name in HELPERS] == own


def test_an_unused_ray_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeRay(monkeypatch)
    with pytest.raises(KeyError), starting_ahead():
        raise KeyError
    assert started.calls == ["init", "shutdown"]
    with environment(), cluster():  # starts another one
        assert started.calls[2:] == ["init"]


def test_an_error_of_starting_ahead_is_raised_when_ray_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = FakeRay(monkeypatch, "timed out during startup.\nand more")
    message = r"on this machine: .*during startup\.\n"
    with starting_ahead(), pytest.raises(ConfigError, match=message), cluster():
        pass
    with starting_ahead():
        pass
    assert started.calls == []


def test_nothing_is_started_ahead_if_a_cluster_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeRay(monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with starting_ahead():
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with starting_ahead():
        pass
    assert started.calls == []


@pytest.mark.parametrize(
    ("address", "where"), [("", "on this machine"), ("local", "RAY_ADDRESS=local")]
)
def test_a_failed_start_is_an_error_of_one_line(
    address: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises a plain Exception if its processes start too slowly."""

    def init(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.\nand more")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=rf"{where}: .*during startup\.\n"), cluster():
        pass


def test_workers_have_a_setup_hook_if_user_modules_shadow_our_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _worker_environment() is None
    (tmp_path / "search.py").touch()
    assert _worker_environment() == {"worker_process_setup_hook": "ensweep.own_packages"}
    monkeypatch.chdir(ROOT)
    assert _worker_environment() is None


@pytest.mark.slow
def test_a_worker_imports_our_packages_not_the_users_modules(tmp_path: Path) -> None:
    for name in ("search", "ensemble", "trainable", "mlflow_setup"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user's own')\n")
    (tmp_path / "drive.py").write_text(
        "import ensweep, ray\n"
        "from trainable.tune.cluster import cluster\n"
        "def files():\n"
        "    import search, trainable.tune.placement as placement\n"
        "    return search.__file__, placement.__file__\n"
        "with cluster():\n"
        "    print(*ray.get(ray.remote(num_cpus=0)(files).remote()))\n"
    )
    done = subprocess.run(
        [sys.executable, "drive.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    expected = [ROOT / "search" / "__init__.py", ROOT / "trainable" / "tune" / "placement.py"]
    assert done.stdout.split() == list(map(str, expected))


@pytest.mark.parametrize(
    ("cpus", "gpus", "fits"),
    [(1, 0, 8), (3, 0, 2), (9, 0, 0), (1, 1, 2), (1, 2, 1), (1, 3, 0), (1, 0.5, 4), (1, 0.4, 4)],
)
def test_the_number_of_trials_that_fit_on_a_node(cpus: int, gpus: float, fits: int) -> None:
    node = Node({"CPU": 8.0, "GPU": 2.0}, "gpu_spot")
    assert node.num_trials(cpus, gpus) == fits
    assert (node.type, Node({}).type) == ("gpu_spot", "local")
    assert (Node({}).cpus, Node({}).gpus) == (0.0, 0.0)


def test_environment_variables_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    with environment():
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ


def test_a_cluster_that_does_not_respond_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=127\.0\.0\.1:9: .*refused"), cluster():
        pass
