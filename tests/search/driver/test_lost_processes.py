"""Trials whose process failed or was lost: what they are told of it, and who is asked again."""

import time
from pathlib import Path

import pytest
from callback_sweep import FakeTrial, Sweep

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.schema import AttemptRecord, Outcome
from search.driver.failures import MAX_LOSSES, first_line_of_error, pause
from trainable.storage.trial_folder import TrialFolder


def write_attempt(folder: TrialFolder, number: int, *, is_over: bool = False) -> None:
    record = AttemptRecord("host", "local", 1.0, 0.0, 0.0, time.time(), 1.0, is_over)
    write_atomic(folder.path / "attempts" / f"{number:04d}.json", record.to_json())


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
    assert sweep.searcher.retried == ["0001"]
    outcome = folder.outcome()
    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == (Outcome.FAILED, "ValueError: no luck")
    assert folder.checkpoint_dir.exists()
    assert "0001: will be retried: ValueError: no luck" in sweep.text.getvalue()


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
    assert sweep.searcher.retried == ["0001"] * MAX_LOSSES
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
    assert sweep.searcher.retried_alone == ["t"]
    assert sweep.folder("t").outcome() is None
    sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type,list-item]
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.retried_alone == ["t"]
    assert sweep.searcher.given_up == ["t"]
    outcome = sweep.folder("t").outcome()
    assert outcome is not None
    assert outcome.outcome is Outcome.FAILED
    assert outcome.reason.startswith("alone on a node as well: ")


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
    sweep.switch.request("Ctrl-C")
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
