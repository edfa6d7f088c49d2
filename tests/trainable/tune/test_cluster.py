"""The surroundings of a Ray that is started here: looked at before anything relies on it."""

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

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


class FakeRay:
    """Notes when a Ray is started and shut down, and with which processes beside it."""

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


def test_a_ray_that_starts_ahead_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeRay(monkeypatch)
    own = [getattr(RayNode, name) for name in HELPERS]  # fails where Ray has renamed them
    with starting_ahead():
        with cluster() as nodes:
            assert nodes == []
            assert started.calls == ["init"]
            assert started.thread.is_alive()  # with it Linux would end Ray's processes
        assert started.calls == ["init", "shutdown"]
    started.thread.join(10)
    assert started.calls == ["init", "shutdown"]
    assert started.helpers == [None] * len(HELPERS)
    assert [getattr(RayNode, name) for name in HELPERS] == own


def test_a_ray_that_nobody_took_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeRay(monkeypatch)
    with pytest.raises(KeyError), starting_ahead():
        raise KeyError
    assert started.calls == ["init", "shutdown"]
    with environment(), cluster():  # the next one is its own
        assert started.calls[2:] == ["init"]


def test_what_is_wrong_with_a_ray_ahead_is_told_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = FakeRay(monkeypatch, "timed out during startup.\nand more")
    message = r"on this machine: .*during startup\.\n"
    with starting_ahead(), pytest.raises(ConfigError, match=message), cluster():
        pass
    with starting_ahead():
        pass
    assert started.calls == []


def test_nothing_is_started_ahead_of_a_cluster_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    started = FakeRay(monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with starting_ahead():
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with starting_ahead():
        pass
    assert started.calls == []


def test_a_ray_that_does_not_start_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(*_: object, **__: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nand more")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"on this machine: .*during startup\.\n"), cluster():
        pass


def test_workers_are_told_where_a_module_of_the_user_has_our_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _worker_environment() is None
    (tmp_path / "search.py").touch()
    assert _worker_environment() == {"worker_process_setup_hook": "ensweep.own_packages"}
    monkeypatch.chdir(ROOT)
    assert _worker_environment() is None


@pytest.mark.slow
def test_a_worker_has_our_packages_whatever_stands_beside_the_driver(tmp_path: Path) -> None:
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
def test_trials_that_fit_on_a_machine(cpus: int, gpus: float, fits: int) -> None:
    node = Node({"CPU": 8.0, "GPU": 2.0}, "gpu_spot")
    assert node.num_trials(cpus, gpus) == fits
    assert (node.type, Node({}).type) == ("gpu_spot", "local")
    assert (Node({}).cpus, Node({}).gpus) == (0.0, 0.0)


def test_settings_of_ray_last_as_long_as_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    with environment():
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=127\.0\.0\.1:9: .*refused"), cluster():
        pass


def test_a_ray_that_does_not_come_up_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception where its processes are too slow to start."""

    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr("ray.init", too_slow)
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=local: .*timed out"), cluster():
        pass
