"""The driver's side of a trial: decisions, outcomes, what is kept of pruned trials."""

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.schema import AttemptRecord, EpochRecord, Outcome, OutcomeRecord, TrialRecord
from search.algorithms.rungs import Promotion, SuccessiveHalving
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.sweep_config import Budget
from search.driver.budget import Meter
from search.driver.callback import SweepCallback
from search.driver.failures import MAX_LOSSES, first_line_of_error, pause
from search.driver.progress import Progress
from search.driver.stop_switch import StopSwitch
from search.storage.garbage import near_top
from search.storage.sweep_folder import SweepFolder
from trainable.runtime.progress import Work
from trainable.storage.trial_folder import TrialFolder


@dataclass
class FakeTrial:
    """What the driver sees of a trial."""

    name: str
    error_file: str | None = None
    last_result: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        settings = {"optim.lr": 1e-4, "train.num_epochs": 4}
        searched = ["optim.lr"]
        given = {"settings": settings, "origin": {}, "searched": searched, "recipe": "b3"}
        return {"trial": self.name, **given}


@dataclass
class FakeMirror:
    """Remembers what was projected."""

    marked: list[str] = field(default_factory=list)

    def mark(self, trial: str) -> None:
        self.marked.append(trial)


def write_attempt(folder: TrialFolder, number: int, *, is_over: bool = False) -> None:
    record = AttemptRecord("host", "local", 1.0, 0.0, 0.0, time.time(), 1.0, is_over)
    write_atomic(folder.path / "attempts" / f"{number:04d}.json", record.to_json())


@dataclass
class FakeSearcher:
    """Remembers which trials were to be tried again, and which were given up."""

    tried_again: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    num_left: int = 5

    tried_alone: list[str] = field(default_factory=list)

    pauses: list[float] = field(default_factory=list)

    def again(self, name: str, *, after_seconds: float, exclusive: bool = False) -> None:
        (self.tried_alone if exclusive else self.tried_again).append(name)
        self.pauses.append(after_seconds)

    def failed(self, name: str) -> None:
        self.given_up.append(name)


class Sweep:
    """A driver with its scheduler, and trials that are written by hand."""

    def __init__(
        self,
        storage: Path,
        keep_pruned_top: int = 1,
        sync_later: Callable[[Path], None] | None = None,
    ) -> None:
        self.sweep_folder = SweepFolder(storage, "s")
        self.mirror, self.searcher = FakeMirror(), FakeSearcher()
        self.scheduler = TuneScheduler(SuccessiveHalving(1, 2))
        self.switch = StopSwitch(self.sweep_folder.stop_file, lambda line: None)
        self.text = io.StringIO()
        self.progress = Progress(Console(file=self.text, width=200), 10, 1)
        self.callback = SweepCallback(
            self.sweep_folder,
            self.mirror,  # type: ignore[arg-type]
            self.scheduler,
            self.progress,
            self.switch,
            Meter(self.sweep_folder, Budget()),
            self.searcher,  # type: ignore[arg-type]
            keep_pruned_top,
            max_failures=1,
            sync_later=sync_later,
        )

    def start(self, name: str) -> FakeTrial:
        trial = FakeTrial(name)
        record = TrialRecord(name, "s", "b3", {"seed": 0}, {}, 0, "data", None, time.time())
        self.folder(name).create(record)
        self.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type,list-item]
        return trial

    def epoch(self, trial: FakeTrial, epoch: int, overall: float, sentiment: float = 0.1) -> str:
        """What the trial's process writes and reports; the scheduler's word."""
        folder = self.folder(trial.name)
        metrics = {"dev/overall": overall, "dev/sentiment/accuracy": sentiment}
        metrics["train/sentiment/loss"] = 9.0
        folder.write_epoch(EpochRecord(epoch, metrics, {}, 1.0, time.time()))
        if epoch not in folder.kept_epochs():
            folder.keep_weights(epoch, lambda path: None)
        lengths = {"num_epochs": 4, "num_probe_epochs": 0}
        result = {"epoch": epoch, **lengths, "diverged": 0, "problem": ""}
        result |= {"overall": overall, "best_overall": overall}  # type: ignore[dict-item]
        word = self.scheduler.on_trial_result(None, trial, result)
        self.callback.on_trial_result(0, [], trial, result)  # type: ignore[arg-type]
        return word

    def end(self, trial: FakeTrial) -> OutcomeRecord:
        self.callback.on_trial_complete(0, [], trial)  # type: ignore[arg-type]
        outcome = self.folder(trial.name).outcome()
        assert outcome is not None
        return outcome

    def folder(self, name: str) -> TrialFolder:
        return self.sweep_folder.trial(name)


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
def test_the_disk_is_waited_for_where_a_trial_ends_or_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rungs: SuccessiveHalving
) -> None:
    """That one goes on is decided anew, should the machine be lost before the disk has it."""
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


def test_a_failed_trial_says_why_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.epoch(trial, 1, 0.7)
    folder = sweep.folder("0001")
    folder.checkpoint_dir.mkdir(parents=True)
    error = tmp_path / "error.txt"
    error.write_text("Failure # 2\n  File y\nValueError: no luck\nfix: try\n", encoding="utf-8")
    trial.error_file = str(error)
    for tries, is_given_up in ((1, False), (2, True)):
        sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
        write_attempt(folder, tries)
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
        assert sweep.searcher.given_up == ["0001"] * is_given_up
    assert sweep.searcher.tried_again == ["0001"]
    outcome = folder.outcome()
    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == (Outcome.FAILED, "ValueError: no luck")
    assert folder.checkpoint_dir.exists()
    assert "0001: to be tried again: ValueError: no luck" in sweep.text.getvalue()


def test_what_a_lost_process_took_is_charged_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence counts, and what it did after it had last put down its seconds."""
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    began = float(int(time.monotonic()))  # whole seconds: their differences are exact
    monkeypatch.setattr(time, "monotonic", lambda: began)
    sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
    write_attempt(sweep.folder("0001"), 1)
    monkeypatch.setattr(time, "monotonic", lambda: began + 1800)
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    (attempt,) = sweep.folder("0001").attempts()
    assert (attempt.seconds, attempt.is_over) == (1800, True)


def test_what_a_process_put_down_at_its_own_end_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that a trial raised; and an older attempt is not charged for a newer loss."""
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    write_attempt(sweep.folder("0001"), 1)  # an earlier driver's
    began = time.monotonic()
    sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
    monkeypatch.setattr(time, "monotonic", lambda: began + 1800)
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert [attempt.seconds for attempt in sweep.folder("0001").attempts()] == [1.0]
    write_attempt(sweep.folder("0001"), 2, is_over=True)
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert [attempt.seconds for attempt in sweep.folder("0001").attempts()] == [1.0, 1.0]


def test_processes_lost_before_they_tried_are_not_held_against_the_trial(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    for _ in range(MAX_LOSSES):
        sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.given_up == []
    assert sweep.searcher.tried_again == ["0001"] * MAX_LOSSES
    assert sweep.searcher.pauses == [pause(count) for count in range(1, MAX_LOSSES + 1)]
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.given_up == ["0001"]


@pytest.mark.parametrize(
    "text",
    [
        "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
        "The actor is dead because its node is running low on memory.",
        "MemoryError: Unable to allocate 9 GiB",
    ],
)
def test_a_machine_without_memory_is_asked_for_all_of_it_once(tmp_path: Path, text: str) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("t")
    error = tmp_path / "error.txt"
    error.write_text(text)
    trial.error_file = str(error)
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.tried_alone == ["t"]
    assert sweep.folder("t").outcome() is None
    sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type,list-item]
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.tried_alone == ["t"]
    assert sweep.searcher.given_up == ["t"]
    outcome = sweep.folder("t").outcome()
    assert outcome is not None
    assert outcome.outcome is Outcome.FAILED
    assert outcome.reason.startswith("alone as well: ")


def test_a_process_that_never_started_after_one_that_tried_is_no_try(tmp_path: Path) -> None:
    """Tune does not tell of the start of one that dies while it is made."""
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    write_attempt(sweep.folder("0001"), 1)
    for _ in range(3):
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.given_up == []  # of two tries that failed it would be
    assert sweep.searcher.pauses == [0.0, pause(1), pause(2)]


def test_where_nothing_begins_the_sweep_is_stopped_with_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path)
    monkeypatch.setattr("search.driver.failures.PATIENCE_SECONDS", 0.0)
    busy = sweep.start("busy")
    write_attempt(sweep.folder("busy"), 1)
    trials = [FakeTrial(f"000{number}", str(tmp_path / "error.txt")) for number in range(4)]
    (tmp_path / "error.txt").write_text("RuntimeEnvSetupError: no such wheel")
    for trial in trials * 3:
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type,list-item]
    assert sweep.switch.reason is None  # one is under way
    sweep.callback.on_trial_complete(0, [], busy)  # type: ignore[arg-type]
    sweep.callback.on_trial_error(0, [], trials[0])  # type: ignore[arg-type]
    words = "13 starts in a row were lost: RuntimeEnvSetupError: no such wheel"
    assert sweep.switch.reason == f"no trial begins anywhere: {words}"
    assert all(sweep.folder(trial.name).outcome() is None for trial in trials)


def test_what_fails_while_all_stop_may_run_on_later(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.switch.ask("Ctrl-C")
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.given_up == ["0001"]
    assert sweep.folder("0001").outcome() is None


def test_a_trial_that_failed_before_its_first_word_is_on_record(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    error = tmp_path / "error.txt"
    error.write_text("ConfigError: no encoder", encoding="utf-8")
    trial = FakeTrial("0001", str(error))
    for tries in (1, 2):
        sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
        write_attempt(sweep.folder("0001"), tries)
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.mirror.marked == ["0001"]
    snapshot = sweep.folder("0001").snapshot()
    assert snapshot.outcome is not None
    assert snapshot.outcome.reason == "ConfigError: no encoder"
    assert snapshot.record.config["optim.lr"] == 1e-4


def test_a_replayed_epoch_is_seen_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.epoch(trial, 1, 0.7)
    sweep.epoch(trial, 1, 0.7)
    assert sweep.mirror.marked == ["0001"]
    assert len(sweep.progress.epoch_seconds[False]) == 1


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
        ("{", "0004", 0.4, [1]),  # who knows whose weights it keeps
    ):
        note.write_text(content)
        pruned = sweep.start(name)
        assert sweep.epoch(pruned, 1, overall, sentiment=0.3) == "STOP"
        sweep.end(pruned)
        assert sweep.folder(name).kept_epochs() == kept
    assert sweep.folder("0002").kept_epochs() == [1]


def test_a_folder_that_cannot_be_written_to_stops_the_sweep_in_order(
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
    assert problem == (
        "the folder of trial 0001 cannot be written to: [Errno 28] No space left on device"
    )
    assert free.endswith(" MB are free on the sweep's disk")
    assert needed.startswith("5 trials that are left need about 0.0 MB")
    assert sweep.switch.exit_code == 75


def test_a_trial_whose_disk_is_full_stops_the_sweep_and_may_run_on(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, set()), (1, {"a", "b"}), (2, {"a", "b", "c", "d"}), (9, {"a", "b", "c", "d"})],
)
def test_near_top(count: int, expected: set[str]) -> None:
    best = {
        "a": {"x": 0.9, "y": 0.1},
        "b": {"x": 0.1, "y": 0.9},
        "c": {"x": 0.5, "y": 0.2},
        "d": {"x": 0.2, "y": 0.2},
    }
    assert near_top(best, count) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Failure # 1\n\x1b[36mray::f()\x1b[39m\n  File x\n    code\nValueError: no\n", None),
        ("", "unknown error"),
        ("The actor died.\n\tclass_name: F\n\tpid: 1\nThe worker was killed.", None),
    ],
)
def test_the_first_line_of_an_error(text: str, line: str | None) -> None:
    expected = line or text.splitlines()[-1]
    assert first_line_of_error(text) == expected


def test_progress_estimates_the_rest_of_the_sweep() -> None:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=200), num_trials=3, max_concurrent_trials=2)
    progress.started("0001", 4, 0, "lr=1")
    assert progress.remaining_seconds() is None
    metrics = {"dev/overall": 0.5, "dev/sentiment/accuracy": 0.25}
    progress.epoch("0001", EpochRecord(1, metrics, {}, 10.0, 0.0))
    assert progress.remaining_seconds() == (3 + 2 * 4) * 10 / 2
    progress.ended("0001", Outcome.PRUNED, "rung 1")
    assert progress.remaining_seconds() == 2 * 1 * 10 / 2  # as long as the trials so far
    lines = text.getvalue().splitlines()
    assert lines[0] == "0001: started, lr=1"
    assert lines[1].startswith("0001: epoch 1/4  overall 0.5000  sentiment 0.2500  about ")
    assert lines[1].endswith(" left")
    assert lines[2] == "0001: pruned, rung 1"


def test_epochs_of_probes_are_estimated_by_themselves() -> None:
    progress = Progress(Console(file=io.StringIO()), 4, 1, num_probes=2)
    progress.started("0001", 2, 2, "")
    for epoch in (1, 2):
        progress.epoch("0001", EpochRecord(epoch, {"dev/overall": 0.5}, {}, 1.0, 0.0))
    progress.ended("0001", Outcome.FINISHED, "")
    progress.started("0002", 4, 2, "")  # goes on from a probe
    assert progress.remaining_seconds() is None  # nothing is known of what is long
    for epoch, seconds in ((1, 1.0), (2, 1.0), (3, 100.0)):
        progress.epoch("0002", EpochRecord(epoch, {"dev/overall": 0.5}, {}, seconds, 0.0))
    one_probe, one_like_it = 2 * 1.0, 2 * 1.0 + 2 * 100.0
    assert progress.remaining_seconds() == 100.0 + one_probe + one_like_it


def test_a_terminal_gets_a_table() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    work = Work("epoch 2/4", 42, 100, 1.0)
    with Progress(console, 1, 1, under_way=lambda trial: work) as progress:
        progress.started("0001-b2", 4, 0, "optim.lr=1e-4 probe.lr=2 model.fcn_size=8")
        progress.epoch("0001-b2", EpochRecord(1, {"dev/overall": 0.5}, {}, 10.0, 0.0))
        progress.ended("0001-b2", Outcome.FINISHED, "ran 4 epochs")
    shown = text.getvalue()
    assert "1/4 +42 %" in shown  # of the second epoch
    assert "optim.lr=1e-4 probe.lr=2 fcn_size=8" in shown
    for part in ("1 of 1 trials", "overall", "0001-b2", "1/4", "0.5000", "finished"):
        assert part in shown
