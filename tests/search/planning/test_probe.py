"""Probes of the nodes on which trials will run, and how the driver combines their reports."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_setup.errors import ConfigError
from search.planning import node_probes as module
from search.planning.node_probes import ProbeResults, memory_problems, run_probes
from search.planning.probe import NodeReport, probe, probe_folder, versions
from trainable.config.config import Config
from trainable.training.profile import Rehearsal
from trainable.tune.placement import TrialPlacement


def place_of(storage: Path) -> TrialPlacement:
    return TrialPlacement(storage, "s", 1)


ProbeInProcess = Callable[[Path, Path], NodeReport]


@pytest.fixture(scope="module")
def probe_in_process() -> Iterator[ProbeInProcess]:
    """Runs a probe in another process: locks are held by processes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda storage, folder: pool.submit(probe, place_of(storage), folder, {}).result()


def test_a_shared_folder_is_found_and_gets_an_answer(
    tmp_path: Path, probe_in_process: ProbeInProcess
) -> None:
    with probe_folder(tmp_path / "runs") as folder:
        found = probe_in_process(tmp_path / "runs", folder)
        assert found.problems == ()
        assert (folder / found.answer).is_file()
        assert found.versions == versions()
        assert found.memory_bytes > 10**9
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_is_not_shared_or_not_locked_is_reported(
    tmp_path: Path, probe_in_process: ProbeInProcess
) -> None:
    with probe_folder(tmp_path / "runs") as folder:
        missing = probe_in_process(tmp_path / "runs", folder.parent / "not-there")
        (folder.parent / "copy").mkdir()
        (folder.parent / "copy" / "driver").write_text("another")
        copied = probe_in_process(tmp_path / "runs", folder.parent / "copy")
    assert "does not exist, or is not the driver's" in missing.problems[0]
    assert "does not have the content that the driver wrote" in copied.problems[0]
    assert "do not work between machines" in copied.problems[1]


def test_a_storage_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"storage .*file"), probe_folder(tmp_path / "file"):
        pass


def report_of(host: str, **changes: object) -> NodeReport:
    return replace(NodeReport(host, "a", "local", 0.5, versions(), 8 * 10**9), **changes)


def test_other_versions_and_missing_answers_are_problems(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    valid = module.with_driver(report_of("one"), tmp_path)
    assert valid.problems == ()
    older = report_of("two", versions={**versions(), "ray": "2.1.0"}, answer="b")
    checked = module.with_driver(older, tmp_path)
    assert "the driver does not see" in checked.problems[0]
    assert "ray is 2.1.0; the driver has" in checked.problems[1]
    both = ProbeResults((valid, checked, checked))
    assert len(both.problems) == 2
    assert both.problems[0].startswith("two: ")


@dataclass
class Task:
    """A remote task that records its node and the configurations that it is to rehearse."""

    sent: list[tuple[str | None, list[str]]]
    node: str | None = None

    def options(self, *, scheduling_strategy: Any) -> "Task":
        return Task(self.sent, scheduling_strategy.node_id)

    def remote(self, place: TrialPlacement, folder: Path, configs: Mapping[str, Any]) -> NodeReport:
        self.sent.append((self.node, list(configs)))
        (folder / "a").write_text("")
        costs = {name: Rehearsal(len(self.sent), 1.0, (), 1, 1, 1, 1) for name in configs}
        return report_of(self.node or "any", rehearsals=costs)


@pytest.mark.parametrize("deep", [False, True])
def test_a_deep_probe_rehearses_the_largest_trials_on_a_node_of_each_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deep: bool
) -> None:
    head, a1, a2, b1 = (digit * 56 for digit in "1234")
    big, small = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}
    nodes = [(head, {}, "head"), (a1, big, "a"), (a2, big, "a"), (b1, small, "b")]
    alive = [
        {"NodeID": name, "Resources": has, "Labels": {"ray.io/node-group": group}}
        for name, has, group in nodes
    ]
    sent: list[tuple[str | None, list[str]]] = []
    fake = SimpleNamespace(
        remote=lambda **_: lambda _: Task(sent),
        wait=lambda sent, timeout: (sent, []),
        get=lambda sent, timeout=None: sent,
    )
    monkeypatch.setattr(module, "ray", fake)
    monkeypatch.setattr(module, "_alive", lambda: alive)
    names = ["largest with x", "largest with y", "first trial 1 (b2)"]
    configs = {name: Config() for name in names}
    results = run_probes(configs, place_of(tmp_path), tmp_path, 1, deep=deep)
    assert sent[0] == (None, names)
    assert sent[1:] == [(node, names[:2]) for node in (a1, b1)] * deep
    assert results.problems == []
    num_parameters = {cost.num_parameters for cost in results.rehearsals.values()}
    assert num_parameters == {1}  # of the first report


@pytest.mark.parametrize(
    ("gigabytes", "num_trials", "is_too_large"),
    [(3, 2, False), (5, 2, True), (5, 1, False), (9, 1, True)],
)
def test_trials_that_do_not_fit_into_memory_together(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gigabytes: int,
    num_trials: int,
    is_too_large: bool,
) -> None:
    node = {"Alive": True, "NodeID": "x", "Resources": {"CPU": 4.0}}
    monkeypatch.setattr(module, "_alive", lambda: [node])
    cost = Rehearsal(1, 1.0, (), gigabytes * 10**9, 1, 1, 1)
    results = ProbeResults((report_of("one", rehearsals={"largest": cost}),))
    problems = list(memory_problems(results, place_of(tmp_path), num_trials))
    assert len(problems) == is_too_large
    assert all(f"{num_trials} x {gigabytes}.0 GB" in line for line in problems)
