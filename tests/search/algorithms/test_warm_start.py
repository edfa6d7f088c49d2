"""Trials of an older sweep in the space of a new one: kept, clipped or left out."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from past_sweep import SPACE, Past, sweep_of

from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.schema import EpochRecord, Outcome
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.warm_start import fit, read_warm_start, warm_start, write_warm_start
from search.config.space import Parameter

NARROW = {**SPACE, "optim.lr": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True}}


@pytest.fixture
def older(tmp_path: Path) -> Past:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.5, 0.6), Outcome.FINISHED, **{"optim.lr": 5e-4})
    past.trial("0002", (0.4,), Outcome.PRUNED, **{"optim.lr": 1e-5})
    past.trial("0003", (0.1,), Outcome.FAILED, **{"optim.lr": 1e-5})
    past.trial("0004", (0.3,), None, **{"optim.lr": 1e-5})
    return past


def test_scored_trials_are_used_and_clipped_into_the_space(older: Past, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, space=NARROW, first_trials=[])
    for other in ("s", str(older.folder.path)):
        found, messages = warm_start(sweep, [other], tmp_path)
        assert [(warm.trial, warm.values, warm.is_finished) for warm in found] == [
            ("0001-b2", (0.5, 0.6), True),
            ("0002", (0.4,), False),
        ]
        assert [warm.params["optim.lr"] for warm in found] == [5e-4, 1e-4]
        assert found[0].params["loss.mnr.enabled"] is False
        assert "loss.mnr.weight" not in found[0].params  # its condition does not hold
        assert messages == ["warm start: 2 trials", "warm start: clipped: optim.lr (1)"]


def test_the_study_starts_with_the_older_trials(older: Past, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, space=NARROW, first_trials=[])
    found, _ = warm_start(sweep, ["s"], tmp_path)
    write_warm_start(tmp_path, found)
    assert read_warm_start(tmp_path) == found
    searcher = OptunaSearcher(sweep, (), read_warm_start(tmp_path))
    trials = [(trial.state, trial.value, len(trial.params)) for trial in searcher.study.trials]
    assert trials == [(TrialState.COMPLETE, 0.6, 2), (TrialState.PRUNED, 0.4, 2)]
    first = searcher.suggest("x")
    assert isinstance(first, dict)
    assert first["trial"] == "0001"


def test_an_unknown_sweep_and_scores_of_other_tasks_are_refused(
    older: Past, tmp_path: Path
) -> None:
    sweep = sweep_of(tmp_path)
    with pytest.raises(NothingUsableError, match="no sweep 'other'"):
        warm_start(sweep, ["other"], tmp_path)
    only = sweep_of(tmp_path, config={"data.tasks": ["sentiment"], "train.num_epochs": 4})
    folder = older.folder.trial("0001-b2")
    metrics = {"dev/overall": 0.6, "dev/similarity/pearson": 0.6, "dev/similarity/loss": 1.0}
    folder.write_epoch(EpochRecord(2, metrics, {}, 1.0, 0.0))
    with pytest.raises(ConfigError, match="0001-b2 was scored on similarity; this sweep trains s"):
        warm_start(only, ["s"], tmp_path)


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    assert read_warm_start(tmp_path) == []
    (tmp_path / "warm_start.json").write_text('[{"sweep": 1}]')
    with pytest.raises(IntegrityError, match=r"warm_start.json: cannot be read"):
        read_warm_start(tmp_path)


FLOAT = {"type": "float", "low": 0.1, "high": 1}
INT = {"type": "int", "low": 2, "high": 8}
CHOICE = {"type": "categorical", "choices": [True, "a", 3]}


@pytest.mark.parametrize(
    ("value", "parameter", "expected"),
    [
        (0.5, FLOAT, 0.5),
        (0.0, FLOAT, 0.1),
        (7, FLOAT, 1.0),
        ("0.5", FLOAT, None),
        (True, FLOAT, None),
        (None, FLOAT, None),
        (4, INT, 4),
        (1, INT, 2),
        (99, INT, 8),
        (True, CHOICE, True),
        (1, CHOICE, None),
        ("a", CHOICE, "a"),
        ("b", CHOICE, None),
    ],
)
def test_fit(value: Any, parameter: dict[str, Any], expected: Any) -> None:
    found = fit(value, Parameter.model_validate(parameter, strict=False))
    assert found == expected
    assert type(found) is type(expected)


def test_a_folder_with_the_name_of_a_sweep_does_not_hide_it(
    older: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "s").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    found, _ = warm_start(sweep_of(tmp_path, first_trials=[]), ["s"], tmp_path)
    assert [warm.trial for warm in found] == ["0001-b2", "0002"]
