"""A sweep under a real Ray Tune and a real MLflow, with a stand-in for training."""

import gc
import io
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import ray
from fake_sweep import make_train, sweep_of
from rich.console import Console

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.algorithms.optuna_searcher import OptunaSearcher
from search.cluster.slots import find_slots
from search.config.sweep_config import Budget, Resources
from search.driver.callback import SweepCallback
from search.driver.sweep import resume_sweep, run_sweep
from search.reports.leaderboard import leaderboard
from trainable.storage.trial_folder import TrialFolder
from trainable.tune.cluster import Node, cluster
from trainable.tune.trainable import Train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_ray")]


MISDEEDS = {
    "0001-baseline": "leaks",
    "0002-b2": "dies before it tells",
    "0003": "diverges",
    "0004": "raises",
}


def test_a_sweep_from_start_to_end(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISDEED", json.dumps(MISDEEDS))
    callbacks: list[SweepCallback] = []

    class Kept(SweepCallback):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            callbacks.append(self)

    monkeypatch.setattr("search.driver.run.SweepCallback", Kept)
    sweep = sweep_of(tmp_path, tiny_data)
    tracking = resolve_tracking(tmp_path / "runs")
    shown = io.StringIO()
    result = run_sweep(
        sweep, "s", tmp_path / "runs", tracking, console=Console(file=shown), train=make_train()
    )
    assert not ray.is_initialized()
    outcomes = {t.record.trial: t.outcome.outcome for t in result.trials if t.outcome is not None}
    assert len(outcomes) == 7
    assert outcomes["0001-baseline"] is Outcome.FINISHED
    assert outcomes["0003"] is Outcome.DIVERGED
    assert outcomes["0004"] is Outcome.FAILED
    assert Outcome.PRUNED in outcomes.values()
    assert result.best is not None
    assert result.best[0] == "0001-baseline"
    assert result.unsynced == ()
    nodes = {callbacks[0].nodes.node(name) for name in outcomes}  # from private attributes of Tune
    assert len(nodes) == 1
    assert None not in nodes

    arrivals = [len(rung.arrivals) for rung in result.rungs]
    assert arrivals[0] == 5  # all but the diverged and the failed one, the crashed one once
    assert sum(len(rung.stops) for rung in result.rungs) == len(result.ended(Outcome.PRUNED))

    records = {run.trial: run for run in find_trials(tracking, "s")}
    assert {name: run.outcome for name, run in records.items()} == outcomes
    assert "RUNNING" not in {run.status for run in records.values()}
    assert tracking.search({"kind": "sweep", "sweep": "s"})[0].info.status == "FINISHED"
    assert records["0004"].tags["outcome_reason"] == "RuntimeError: no luck"
    for name in result.ended(Outcome.PRUNED):
        assert records[name].status == "FINISHED"
        assert "below cut-off" in records[name].tags["outcome_reason"]
        assert TrialFolder(result.folder / "trials" / name).decisions()[-1].action == "stop"
    assert leaderboard(list(records.values()))[0].trial == "0001-baseline"

    written = json.loads((result.folder / "sweep.yaml").read_text(encoding="utf-8"))
    assert written["search"]["num_samples"] == 7
    lines = shown.getvalue()
    assert "0001-baseline: epoch 4/4" in lines
    assert "its process cannot run another trial and is replaced" in lines
    assert "0003: diverged, the loss of sentiment is nan" in lines

    with pytest.raises(ConfigError, match="sweep 's' is already tracked"):
        run_sweep(sweep, "s", tmp_path / "other", tracking, train=make_train())


def make_train_of_three_tasks() -> Train:
    """What one task wins with a larger learning rate another loses; three epochs."""

    def train(config, folder, *, identity, report, stop, shared):  # type: ignore[no-untyped-def]
        import time

        from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
        from trainable.storage.trial_folder import TrialFolder

        trial, lr = TrialFolder(folder), config.optim.lr
        trial.reopen()
        given = (identity.trial, identity.sweep, identity.recipe, config.flat(), identity.origin)
        trial.create(TrialRecord(*given, 0, "unknown", None, time.time(), identity.searched))
        end = OutcomeRecord(Outcome.FINISHED, "ran 3 epochs", 3, time.time())
        for epoch in range(len(trial.epochs()) + 1, 4):
            time.sleep(0.2)
            if stop():
                end = OutcomeRecord(Outcome.STOPPED, "asked to", epoch - 1, time.time())
                break
            scores = {"sentiment/accuracy": lr, "paraphrase/accuracy": 1 - lr}
            scores |= {"similarity/pearson": epoch / 10, "overall": 0.5}
            metrics = {f"dev/{name}": score for name, score in scores.items()}
            trial.write_epoch(EpochRecord(epoch, metrics, {}, 0.2, time.time()))
            report(trial.epochs()[-1])
        trial.write_outcome(end)
        return end

    return train


def test_a_budget_ends_a_sweep_of_three_objectives_which_then_goes_on(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searchers: list[OptunaSearcher] = []

    class Kept(OptunaSearcher):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            searchers.append(self)

    monkeypatch.setattr("search.driver.run.OptunaSearcher", Kept)
    monkeypatch.setattr("search.driver.budget.CHECK_SECONDS", 0.1)
    budget = ["budget.max_usd=0.01", 'budget.usd_per_hour={"local": 3600}']
    given = ["search.objective=tasks", "scheduler.name=none", "train.num_epochs=3"]
    few = ["search.num_samples=4", "resources.max_concurrent_trials=1"]
    sweep = sweep_of(tmp_path, tiny_data, *given, *few, *budget)
    storage, quiet, train = tmp_path / "runs", Console(quiet=True), make_train_of_three_tasks()
    tracking = resolve_tracking(storage)
    result = run_sweep(sweep, "s", storage, tracking, console=quiet, train=train)
    assert result.stop == ("budget.max_usd=0.01 is used up", 75)
    assert result.usage.usd > 0.01
    outcomes = {trial.outcome.outcome for trial in result.trials if trial.outcome is not None}
    assert outcomes <= {Outcome.FINISHED, Outcome.STOPPED}
    assert 1 <= len(result.trials) < 4  # nothing was begun once it was used up
    assert "RUNNING" not in {run.status for run in find_trials(tracking, "s")}

    result = resume_sweep("s", storage, tracking, budget=Budget(), console=quiet, train=train)
    assert result.stop is None
    assert len(result.ended(Outcome.FINISHED)) == 4
    told = [(trial.state.name, trial.values) for trial in searchers[-1].study.trials]
    rates = {trial.record.trial: trial.record.config["optim.lr"] for trial in result.trials}
    assert sorted(told) == sorted(
        ("COMPLETE", [lr, 1 - lr, pytest.approx(0.3)]) for lr in rates.values()
    )


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, tiny_data: Path) -> None:
    tracking = resolve_tracking(tmp_path / "runs")
    sweep = sweep_of(tmp_path, tiny_data, f"data.dir={tmp_path / 'nowhere'}")
    with pytest.raises((DataError, ConfigError), match="nowhere"):
        run_sweep(sweep, "s", tmp_path / "runs", tracking)
    sweep = sweep_of(tmp_path, tiny_data)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    with pytest.raises(ConfigError, match="sweep 'taken' already exists"):
        run_sweep(sweep, "taken", tmp_path / "runs", tracking)
    with pytest.raises(ConfigError, match="sweep"):
        run_sweep(sweep, "../up", tmp_path / "runs", tracking)
    with pytest.raises(ConfigError, match="tracking"):
        run_sweep(sweep, "s", tmp_path / "runs", Tracking("sqlite:////proc/none/mlflow.db"))
    assert not ray.is_initialized()
    assert not (tmp_path / "runs" / "s").exists()


def test_garbage_is_collected_before_ray_ends_and_not_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Freed by another thread in the middle of it, an object reference ends the process."""

    class Knot:
        def __init__(self) -> None:
            self.me = self

    seen = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append((gc.isenabled(), knot())))
    with cluster():
        knot = weakref.ref(Knot())
    assert seen == [(False, None)]
    assert gc.isenabled()


def nodes_of(*sizes: tuple[float, float], group: str | None = None) -> list[Node]:
    return [Node({"CPU": cpus, "GPU": gpus}, group) for cpus, gpus in sizes]


@pytest.mark.parametrize(
    ("asked", "sizes", "slots"),
    [
        ({}, [(2.0, 0)], (0.0, 2)),
        ({"cpus_per_trial": 2}, [(5.0, 0)], (0.0, 2)),
        ({"cpus_per_trial": 2}, [(3.0, 0), (3.0, 0)], (0.0, 2)),  # not the three of six CPUs
        ({}, [(8.0, 2.0)], (1.0, 2)),
        ({}, [(8.0, 0), (4.0, 1.0), (4.0, 1.0)], (1.0, 2)),
        ({"gpus_per_trial": 2.0}, [(4.0, 1.0), (4.0, 3.0)], (2.0, 1)),
        ({"gpus_per_trial": 0.5}, [(8.0, 2.0)], (0.5, 4)),
        ({"gpus_per_trial": 0.5}, [(1.0, 2.0), (8.0, 1.0)], (0.5, 3)),
        ({"gpus_per_trial": 0}, [(8.0, 2.0)], (0.0, 8)),
        ({"gpus_per_trial": 1, "max_concurrent_trials": 8}, [(8.0, 0)], (1.0, 8)),
        ({"gpus_per_trial": 1, "max_concurrent_trials": "auto"}, [(8.0, 0)], (1.0, 1)),
    ],
)
def test_find_slots(
    asked: dict[str, float], sizes: list[tuple[float, float]], slots: tuple[float, int]
) -> None:
    found = find_slots(Resources.model_validate(asked, strict=False), nodes_of(*sizes))
    assert (found.gpus_per_trial, found.max_concurrent_trials) == slots


@pytest.mark.parametrize("asked", [{"cpus_per_trial": 3}, {"gpus_per_trial": 1.0}])
def test_a_trial_that_never_fits_is_refused(asked: dict[str, float]) -> None:
    """Two nodes with two CPUs are no node with three."""
    with pytest.raises(ConfigError, match="the cluster has 2 x 2 CPUs and 0 GPUs"):
        find_slots(Resources.model_validate(asked), nodes_of((2.0, 0), (2.0, 0)))


def test_whether_trials_need_gpus_is_not_guessed_where_the_workers_are_still_to_come() -> None:
    """Else they would all train on the head's CPUs."""
    head = nodes_of((8.0, 0), group="head")
    with pytest.raises(ConfigError, match=r"gpus_per_trial: no node .* but it may grow"):
        find_slots(Resources(max_concurrent_trials=8), head)
    on_cpus = Resources(max_concurrent_trials=8, gpus_per_trial=0.0)
    assert find_slots(on_cpus, head).gpus_per_trial == 0.0
    with_gpu = [*head, *nodes_of((4.0, 1.0), group="gpu_spot")]
    assert find_slots(Resources(max_concurrent_trials=8), with_gpu).gpus_per_trial == 1.0
