"""A sweep restored from its folder: study, rungs, unfinished trials, numbers of new ones."""

import errno
import json
import os
from pathlib import Path

import pytest
from optuna.trial import TrialState
from past_sweep import Past, sweep_of

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.schema import EpochRecord, Outcome
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.rungs import SuccessiveHalving, restore_rungs
from search.storage.history import history_to_resume, past_trial, write_history
from search.storage.sweep_folder import SweepFolder


@pytest.fixture
def past(tmp_path: Path) -> Past:
    past = Past(tmp_path)
    stop = ("continue", "stop")
    past.trial("0001-b2", (0.5, 0.4, 0.6, 0.55), Outcome.FINISHED, **{"optim.lr": 1e-4})
    past.trial("0002", (0.3, 0.4), Outcome.PRUNED, stop, **{"optim.lr": 1e-3})
    past.trial("0003", (0.2,), Outcome.DIVERGED, **{"optim.lr": 9e-3})
    past.trial("0005", (0.45, 0.5), None, ("continue",), **{"optim.lr": 2e-4})
    return past


def test_the_study_is_restored(past: Past) -> None:
    searcher = OptunaSearcher(past.folder.read(), past.history())
    states = [(trial.state, trial.value) for trial in searcher.study.trials]
    assert states == [
        (TrialState.COMPLETE, 0.6),  # its best, not its last
        (TrialState.PRUNED, 0.4),
        (TrialState.FAIL, None),
        (TrialState.RUNNING, None),  # unfinished: the sampler avoids its neighbourhood
    ]
    first, pruned, *_ = searcher.study.trials
    assert first.params == {"optim.lr": 1e-4}
    assert first.intermediate_values == {1: 0.5, 2: 0.5, 3: 0.6, 4: 0.6}
    assert pruned.intermediate_values == {1: 0.3, 2: 0.4}


def test_unfinished_trials_come_first_then_new_ones_with_free_numbers(
    past: Past,
) -> None:
    searcher = OptunaSearcher(past.folder.read(), past.history())
    assert searcher.num_to_come == 3
    again = searcher.suggest("x")
    assert isinstance(again, dict)
    assert again["trial"] == "0005"
    assert again["settings"] == past.folder.trial("0005").trial().config
    assert again["searched"] == ["optim.lr"]
    running = searcher.study.trials[-1]
    assert (running.state, running.params["optim.lr"]) == (TrialState.RUNNING, 2e-4)
    assert running.intermediate_values == {1: 0.45, 2: 0.5}
    new = [searcher.suggest("y"), searcher.suggest("z")]
    assert [trial["trial"] for trial in new if isinstance(trial, dict)] == ["0004", "0006"]
    assert searcher.suggest("w") is None  # trial x may still have to be retried
    for trial_id in "xyz":
        name = searcher.running[trial_id]
        searcher.on_trial_complete(trial_id, None, error=True)
        searcher.fail(name)
    assert searcher.suggest("w") == "FINISHED"


def test_a_stopped_trial_is_suggested_again(past: Past) -> None:
    searcher = OptunaSearcher(past.folder.read(), (), is_stopped=lambda name: True)
    first = searcher.suggest("x")
    searcher.on_trial_complete("x", {"epoch": 2, "num_epochs": 4, "best_overall": 0.5})
    assert searcher.suggest("y") == first
    (running,) = searcher.study.trials
    assert running.state is TrialState.RUNNING


def test_nothing_is_started_while_the_sweep_stops(past: Past) -> None:
    searcher = OptunaSearcher(past.folder.read(), past.history(), is_stopping=lambda: True)
    assert searcher.suggest("x") == "FINISHED"


def test_a_resumed_search_does_not_repeat_its_draws(tmp_path: Path) -> None:
    past = Past(tmp_path, first_trials=[])
    before = OptunaSearcher(past.folder.read())
    drawn = [before.suggest(str(number)) for number in range(2)]
    for number, suggested in enumerate(drawn, start=1):
        assert isinstance(suggested, dict)
        searched = {key: suggested["settings"][key] for key in suggested["searched"]}
        past.trial(f"{number:04d}", (0.5,) * 4, Outcome.FINISHED, **searched)
    after = OptunaSearcher(past.folder.read(), past.history())
    rates = {suggested["settings"]["optim.lr"] for suggested in drawn}  # type: ignore[index]
    for number in range(4):
        again = after.suggest(str(number))
        assert isinstance(again, dict)
        assert again["settings"]["optim.lr"] not in rates


def test_the_rungs_are_restored(past: Past) -> None:
    halving = SuccessiveHalving(1, 2)
    restore_rungs(halving, past.history())
    first, second = halving.rungs
    assert first.arrivals == {"0001-b2": 0.5, "0002": 0.3, "0003": 0.2, "0005": 0.45}
    assert second.arrivals == {"0001-b2": 0.5, "0002": 0.4}  # 0005 has not been decided on
    assert (first.stops, second.stops) == ([], ["0002"])
    decision = halving.decide("0005", 2, 0.5, 4)
    assert decision.reason == "rung 2: 0.500 not below cut-off 0.500 of 3"
    assert halving.decide("0005", 2, 0.5, 4) is decision  # reported twice, decided once
    assert len(second.arrivals) == 3


def test_a_recorded_stop_of_a_lost_driver_is_carried_out(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.trial("0002", (0.3,), None, ("stop",), **{"optim.lr": 1e-3})
    trial = past.folder.trial("0002")
    trial.checkpoint_dir.mkdir()
    history = history_to_resume(past.folder)
    assert trial.outcome() is None  # until `write_history` writes it
    assert trial.checkpoint_dir.exists()
    write_history(past.folder, history)
    ended = trial.outcome()
    assert ended is not None
    assert (ended.outcome, ended.reason, ended.epoch) == (Outcome.PRUNED, "why stop", 1)
    assert not trial.checkpoint_dir.exists()
    assert history == past.history()


@pytest.mark.parametrize("outcome", [None, Outcome.STOPPED, Outcome.PRUNED])
def test_a_paused_trial_may_be_promoted_by_the_next_driver(
    tmp_path: Path, outcome: Outcome | None
) -> None:
    """Also in a sweep that had ended and is extended."""
    past = Past(tmp_path, scheduler={"name": "asha"}, search={"num_samples": 3})
    past.trial("0001", (0.5,), outcome, ("pause",), **{"optim.lr": 1e-4})
    past.trial("0002", (0.6, 0.7), Outcome.PRUNED, ("continue", "stop"), **{"optim.lr": 1e-3})
    (paused, other) = past.history()
    assert (paused.is_paused, other.is_paused) == (True, False)
    searcher = OptunaSearcher(past.folder.read(), past.history())
    assert list(searcher.paused) == ["0001"]
    assert searcher.paused["0001"]["settings"]["optim.lr"] == 1e-4
    assert list(searcher.waiting) == []
    assert [trial.state for trial in searcher.study.trials] == [TrialState.PRUNED] * 2
    sweep = past.folder.read()
    search = sweep.search.model_copy(update={"num_samples": 2})
    ended = OptunaSearcher(sweep.model_copy(update={"search": search}), past.history())
    assert list(ended.paused) == ([] if outcome is Outcome.PRUNED else ["0001"])


def test_trials_that_failed_may_be_run_again(past: Past) -> None:
    """Not those that diverged: they would diverge again."""
    past.trial("0004", (0.3,), Outcome.FAILED, **{"optim.lr": 3e-4})
    assert history_to_resume(past.folder) == past.history()
    history = history_to_resume(past.folder, retry_failed=True)
    searcher = OptunaSearcher(past.folder.read(), history)
    assert [each["trial"] for each in searcher.waiting] == ["0004", "0005"]
    assert past.folder.trial("0004").outcome() is not None  # until `write_history` removes it
    write_history(past.folder, history)
    assert past.history() == history


def test_a_sweep_is_read_with_its_extensions(tmp_path: Path) -> None:
    past = Past(tmp_path)
    asked = sweep_of(tmp_path)
    read = past.folder.read()
    assert read.to_file() == asked.to_file()
    for more in (3, 4):
        past.folder.extend(more)
    assert past.folder.read().search.num_samples == 6 + 3 + 4
    (past.folder.path / "extensions" / "0002.json").write_text('{"num_samples": "4"}')
    with pytest.raises(IntegrityError, match=r"0002.json: num_samples must be a positive integer"):
        past.folder.read()


def test_a_damaged_record_is_reported(past: Past) -> None:
    path = past.folder.trial("0003").path / "config.json"
    path.write_text(json.dumps({"trial": 3}))
    with pytest.raises(IntegrityError, match=str(path)):
        past.history()


def test_each_task_can_be_an_objective_of_its_own(tmp_path: Path) -> None:
    tasks = {"data.tasks": ["sentiment", "paraphrase"], "train.num_epochs": 4}
    past = Past(tmp_path, config=tasks, first_trials=[], search={"objective": "tasks"})
    scores = {"sentiment": (0.2, 0.5, 0.4), "paraphrase": (0.9, 0.7, 0.8)}

    def write(name: str, num_epochs: int, outcome: Outcome) -> None:
        past.trial(name, (0.5,) * num_epochs, outcome, **{"optim.lr": 1e-3})
        for epoch in range(1, num_epochs + 1):
            metrics = {f"dev/{task}/accuracy": s[epoch - 1] for task, s in scores.items()}
            overall = {"dev/overall": sum(metrics.values()) / 2}
            record = EpochRecord(epoch, {**overall, **metrics}, {}, 1.0, 0.0)
            past.folder.trial(name).write_epoch(record)

    write("0001", 3, Outcome.FINISHED)
    write("0002", 1, Outcome.PRUNED)
    past.trial("0003", (0.5,), Outcome.FINISHED, **{"optim.lr": 1e-3})  # without the tasks' scores
    searcher = OptunaSearcher(
        past.folder.read(), past.history(), read=lambda name: past_trial(past.folder.trial(name))
    )
    assert searcher.metrics == ["dev/sentiment/accuracy", "dev/paraphrase/accuracy"]
    assert [(trial.state, trial.values) for trial in searcher.study.trials] == [
        (TrialState.COMPLETE, [0.5, 0.9]),  # each its own best epoch
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
    ]
    suggested = searcher.suggest("x")
    assert isinstance(suggested, dict)
    assert suggested["trial"] == "0004"
    write("0004", 2, Outcome.FINISHED)
    searcher.on_trial_result("x", {"epoch": 1, "num_epochs": 2, "best_overall": 0.5})
    searcher.on_trial_complete("x", {"epoch": 2, "num_epochs": 2, "best_overall": 0.6})
    assert searcher.study.trials[-1].values == [0.5, 0.9]
    assert len(searcher.study.best_trials) == 2


def test_has_begun(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    assert not folder.has_begun()
    folder.path.mkdir()  # a driver was lost while it created the folder
    (folder.path / ".tmp-sweep.yaml").touch()
    assert not folder.has_begun()
    assert not folder.path.exists()
    folder.path.mkdir()
    (folder.path / "mine.txt").touch()  # not of a sweep
    assert not folder.has_begun()
    assert (folder.path / "mine.txt").exists()
    (folder.path / "mine.txt").unlink()
    folder.path.rmdir()
    folder.create(sweep_of(tmp_path))
    assert folder.has_begun()


@pytest.mark.parametrize("content", ["", '{"recipe": "b3", ', "[]", "\0\0"])
def test_a_damaged_sweep_file_is_refused(past: Past, content: str) -> None:
    (past.folder.path / "sweep.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"sweep\.yaml") as caught:
        past.folder.read()
    assert "the artifact sweep.yaml of the sweep's run in MLflow" in str(caught.value)


@pytest.mark.parametrize(
    ("num_epochs", "has_checkpoint", "expected"),
    [(4, False, Outcome.FINISHED), (4, True, None), (3, False, None)],
)
def test_a_complete_trial_with_a_damaged_outcome_has_finished(
    tmp_path: Path, num_epochs: int, has_checkpoint: bool, expected: Outcome | None
) -> None:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.5,) * num_epochs, Outcome.FINISHED)
    trial = past.folder.trial("0001-b2")
    trial.outcome_path.write_text("{", encoding="utf-8")
    if has_checkpoint:
        trial.checkpoint_dir.mkdir()
    write_history(past.folder, history_to_resume(past.folder))
    ended = trial.outcome()
    assert (ended and ended.outcome) == expected
    assert ended is None or (ended.epoch, ended.reason) == (4, "ran 4 epochs")


def test_a_sweep_that_cannot_be_written_leaves_its_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("search.storage.sweep_folder.write_atomic", full)
    folder = SweepFolder(tmp_path / "runs", "s")
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        folder.create(sweep_of(tmp_path))
    assert not folder.path.exists()
