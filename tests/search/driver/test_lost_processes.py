"""Trials whose process failed or was lost: their records, and whether they are retried."""

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


def test_a_failed_trial_has_a_reason_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.epoch(trial, 1, 0.7)
    folder = sweep.folder("0001")
    folder.checkpoint_dir.mkdir(parents=True)
    error = tmp_path / "error.txt"
    error.write_text("Failure # 2\n  File y\nValueError: no luck\nfix: try\n", encoding="utf-8")
    trial.error_file = str(error)
    for number, gives_up in ((1, False), (2, True)):
        sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
        write_attempt(folder, number)
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
        assert sweep.searcher.given_up == ["0001"] * gives_up
    assert sweep.searcher.retried == ["0001"]
    outcome = folder.outcome()
    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == (Outcome.FAILED, "ValueError: no luck")
    assert folder.checkpoint_dir.exists()
    assert "0001: will be retried: ValueError: no luck" in sweep.text.getvalue()


def test_a_lost_attempt_counts_until_its_loss_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including the time since it last recorded its seconds."""
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


def test_an_attempt_that_ended_by_itself_keeps_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error that the trial raised. A loss does not change older attempts either."""
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


def test_lost_starts_do_not_count_as_failures_of_the_trial(tmp_path: Path) -> None:
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
def test_a_trial_that_ran_out_of_memory_is_retried_once_alone_on_a_node(
    tmp_path: Path, text: str
) -> None:
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


def test_a_process_lost_while_it_starts_is_not_a_failed_attempt(tmp_path: Path) -> None:
    """Tune does not report the start of such a process."""
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    write_attempt(sweep.folder("0001"), 1)
    for _ in range(3):
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.given_up == []  # two failed attempts would be too many
    assert sweep.searcher.pauses == [0.0, pause(1), pause(2)]


def test_a_sweep_in_which_no_trial_starts_is_stopped_with_the_error(
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
    assert sweep.switch.reason is None  # one trial is running
    sweep.callback.on_trial_complete(0, [], busy)  # type: ignore[arg-type]
    sweep.callback.on_trial_error(0, [], trials[0])  # type: ignore[arg-type]
    lost = "13 starts in a row were lost: RuntimeEnvSetupError: no such wheel"
    assert sweep.switch.reason == f"no trial begins anywhere: {lost}"
    assert all(sweep.folder(trial.name).outcome() is None for trial in trials)


def test_a_trial_that_fails_while_the_sweep_stops_gets_no_outcome(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    trial = sweep.start("0001")
    sweep.switch.request("Ctrl-C")
    sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.searcher.given_up == ["0001"]
    assert sweep.folder("0001").outcome() is None


def test_a_trial_that_failed_before_it_wrote_anything_is_recorded(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    error = tmp_path / "error.txt"
    error.write_text("ConfigError: no encoder", encoding="utf-8")
    trial = FakeTrial("0001", str(error))
    for number in (1, 2):
        sweep.callback.on_trial_start(0, [], trial)  # type: ignore[arg-type]
        write_attempt(sweep.folder("0001"), number)
        sweep.callback.on_trial_error(0, [], trial)  # type: ignore[arg-type]
    assert sweep.mirror.marked == ["0001"]
    snapshot = sweep.folder("0001").snapshot()
    assert snapshot.outcome is not None
    assert snapshot.outcome.reason == "ConfigError: no encoder"
    assert snapshot.record.config["optim.lr"] == 1e-4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "Failure # 1\n\x1b[36mray::f()\x1b[39m\n  File x\n    code\nValueError: a\n",
            "ValueError: a",
        ),
        (
            "The actor died.\n\tclass_name: F\n\tpid: 1\nThe worker was killed.",
            "The worker was killed.",
        ),
        ("", "unknown error"),
    ],
)
def test_the_first_line_of_an_error(text: str, line: str) -> None:
    assert first_line_of_error(text) == line
