"""The driver's part in a trial: decisions, outcomes, and weights of pruned trials."""

import os
import time
from pathlib import Path

import pytest
from callback_sweep import Sweep
from stores import Machines

from mlflow_setup.filesystem.atomic import atomic_folder, write_atomic
from mlflow_setup.filesystem.manifest import write_manifest
from mlflow_setup.schema import AttemptRecord, EpochRecord, Outcome, OutcomeRecord
from search.algorithms.rungs import Promotion, SuccessiveHalving
from search.storage.sweep_folder import SweepFolder
from trainable.storage.trial_folder import TrialFolder


def test_a_stopped_trial_is_pruned_with_the_schedulers_reason(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    good, bad = sweep.start("0001"), sweep.start("0002")
    assert sweep.epoch(good, 1, 0.7) == "CONTINUE"
    assert sweep.epoch(bad, 1, 0.6) == "STOP"
    outcome = sweep.end(bad)
    reason = "rung 1: 0.600 below cut-off 0.700 of 2"
    assert (outcome.outcome, outcome.reason, outcome.epoch) == (Outcome.PRUNED, reason, 1)
    decisions = [decision.action for decision in sweep.folder("0002").decisions()]
    assert decisions == ["stop"]
    assert sweep.mirror.marked[-1] == "0002"
    assert f"0002: pruned, {reason}" in sweep.text.getvalue()


@pytest.mark.parametrize("rungs", [SuccessiveHalving(1, 2), Promotion(1, 2)])
def test_only_decisions_to_stop_or_pause_are_synced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rungs: SuccessiveHalving
) -> None:
    """A decision to continue is made again if it is lost with the machine."""
    later, synced = list[Path](), list[int]()
    sweep = Sweep(tmp_path, sync_later=later.append)
    sweep.scheduler.rungs = rungs
    good, bad = sweep.start("0001"), sweep.start("0002")
    for trial, overall in ((good, 0.7), (bad, 0.6)):
        rungs.decisions.pop(trial.name, None)
        folder = sweep.folder(trial.name)
        metrics = {"dev/overall": overall, "dev/sentiment/accuracy": 0.1}
        folder.write_epoch(EpochRecord(1, metrics, {}, 1.0, time.time()))
        rungs.decide(trial.name, 1, overall, 4)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", synced.append)
            result = {"epoch": 1, "diverged": 0, "problem": ""}
            sweep.callback.on_trial_result(0, [], trial, result)  # type: ignore[arg-type]
        (decision,) = folder.decisions()
        path = folder.path / "epochs" / "0001.decision.json"
        assert (path in later) == (decision.action == "continue")
        assert bool(synced) == (decision.action != "continue")
        synced.clear()
    assert sweep.folder("0002").decisions()[0].action != "continue"


def test_a_paused_trial_has_no_outcome_before_the_sweep_is_over(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.scheduler.rungs = Promotion(1, 2)
    trial, folder = sweep.start("0001"), sweep.folder("0001")
    folder.checkpoint_dir.mkdir(parents=True)
    assert sweep.epoch(trial, 1, 0.7) == "STOP"
    sweep.callback.on_trial_complete(0, [], trial)  # type: ignore[arg-type]
    assert folder.outcome() is None
    assert [decision.action for decision in folder.decisions()] == ["pause"]
    assert "0001: paused, rung 1: 0.700 is number 1 of 1" in sweep.text.getvalue()
    sweep.callback.end_paused(trial.config)
    outcome = folder.outcome()
    assert outcome is not None
    assert outcome.outcome is Outcome.PRUNED
    assert outcome.reason == "paused to the end, rung 1: 0.700 is number 1 of 1"
    assert folder.checkpoint_dir.exists()  # the sweep may be extended


def test_a_trial_keeps_the_outcome_that_it_wrote_itself(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.epoch(trial, 1, 0.7)
    folder = sweep.folder("0001")
    folder.checkpoint_dir.mkdir(parents=True)
    own = OutcomeRecord(Outcome.FINISHED, "ran 1 epochs", 1, time.time())
    folder.write_outcome(own)
    assert sweep.end(trial) == own
    assert not folder.checkpoint_dir.exists()
    assert folder.kept_epochs() == [1]


def test_a_replayed_epoch_counts_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.epoch(trial, 1, 0.7)
    sweep.epoch(trial, 1, 0.7)
    assert sweep.mirror.marked == ["0001"]
    assert sweep.progress._seconds[False][0] == 1


def test_pruned_trials_keep_weights_only_near_the_top(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, keep_pruned_top=1)
    best = sweep.start("0001")
    sweep.epoch(best, 1, 0.7, sentiment=0.4)
    for name, sentiment, kept in (("0002", 0.5, [1]), ("0003", 0.3, [])):
        pruned = sweep.start(name)
        assert sweep.epoch(pruned, 1, 0.6, sentiment) == "STOP"
        sweep.end(pruned)
        assert sweep.folder(name).kept_epochs() == kept
    sweep.epoch(best, 2, 0.7, sentiment=0.6)  # 0002 is no longer the best for sentiment
    sweep.end(best)
    assert sweep.folder("0002").kept_epochs() == []
    assert sweep.folder("0001").kept_epochs() == [1, 2]
    assert sweep.mirror.marked[-2] == "0002"


def test_a_pruned_member_of_a_chosen_ensemble_keeps_its_weights(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, keep_pruned_top=1)
    sweep.epoch(sweep.start("0001"), 1, 0.7, sentiment=0.4)
    note = sweep.sweep_folder.path / "ensemble" / "x.json"
    note.parent.mkdir()
    for content, name, overall, kept in (
        ('{"members": [{"trial": "0002"}]}', "0002", 0.6, [1]),
        ('{"members": [{"trial": "0002"}]}', "0003", 0.5, []),
        ("{", "0004", 0.4, [1]),  # damaged: it may name any trial
    ):
        note.write_text(content)
        pruned = sweep.start(name)
        assert sweep.epoch(pruned, 1, overall, sentiment=0.3) == "STOP"
        sweep.end(pruned)
        assert sweep.folder(name).kept_epochs() == kept
    assert sweep.folder("0002").kept_epochs() == [1]


def test_a_folder_that_cannot_be_written_stops_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")

    def full(self: TrialFolder, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrialFolder, "write_decision", full)
    sweep.epoch(trial, 1, 0.7)
    assert sweep.switch.reason is not None
    problem, free, needed = sweep.switch.reason.split("; ")
    assert problem == ("the folder of trial 0001 cannot be written to: No space left on device")
    assert free.endswith(" MB are free on the sweep's disk")
    assert needed.startswith("5 trials that are left need about 0.0 MB")
    assert sweep.switch.exit_code == 75


def test_a_trial_whose_disk_is_full_stops_the_sweep_and_gets_no_outcome(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    result = {"epoch": 1, "num_epochs": 4, "diverged": 0, "problem": "no space is left for x"}
    result["no_room"] = 1
    trial.last_result = result
    sweep.callback.on_trial_result(0, [], trial, result)  # type: ignore[arg-type]
    sweep.callback.on_trial_complete(0, [], trial)  # type: ignore[arg-type]
    assert sweep.switch.reason is not None
    assert sweep.switch.reason.startswith("no space is left for x; ")
    assert sweep.folder("0001").outcome() is None


def test_a_driver_reads_trials_of_other_machines_from_the_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(monkeypatch, tmp_path)
    driver, worker = machines.copy("driver"), machines.copy("worker")

    class SweepOnTwoMachines(Sweep):
        def folder(self, name: str) -> TrialFolder:
            return TrialFolder(worker.root / "s" / "trials" / name)

    sweep = SweepOnTwoMachines(driver.root)
    good, bad = sweep.start("0001"), sweep.start("0002")
    attempt = AttemptRecord("h", "local", 1, 0, 0.0, time.time(), 1.0)
    write_atomic(sweep.folder("0002").path / "attempts" / "0001.json", attempt.to_json())
    with atomic_folder(sweep.folder("0002").checkpoint_dir / "00000001") as folder:
        write_manifest(folder, {"step": 1})
    assert sweep.epoch(good, 1, 0.7) == "CONTINUE"
    assert sweep.epoch(bad, 1, 0.6, sentiment=0.05) == "STOP"
    assert [past.metrics["dev/overall"] for past in sweep.sweep_folder.trial("0001").epochs()] == [
        0.7
    ]
    sweep.callback.on_trial_complete(0, [], bad)  # type: ignore[arg-type]
    other = SweepFolder(machines.copy("other").root, "s")
    ended = other.trial("0002").outcome()
    assert ended is not None
    assert ended.outcome is Outcome.PRUNED
    assert [decision.action for decision in other.trial("0002").decisions()] == ["stop"]
    assert len(other.trial("0002").attempts()) == 1
    assert (other.trial("0001").kept_epochs(), other.trial("0002").kept_epochs()) == ([1], [])
    assert not [name for name in machines.names() if "/0002/checkpoint" in name]
    assert not sweep.switch.is_on
