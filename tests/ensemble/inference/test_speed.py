"""Milliseconds a sentence, asked of one encoder of each shape, once a machine."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ensemble.candidates.pool import Candidate
from ensemble.inference import speed
from mlflow_setup.errors import IntegrityError
from trainable.config.recipe import resolve

BASE = Candidate("run1", "0001", "s", 1, "/s/trials/0001/weights", 110, num_encoder_parameters=100)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is known yet."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path))
    return tmp_path / "speeds"


def fake_trials(monkeypatch: pytest.MonkeyPatch, **settings: dict[str, Any]) -> list[str]:
    """Each trial with settings of its own; who is asked, in milliseconds by its name."""
    asked: list[str] = []

    def trial_at(uri: str) -> Any:
        given = [f"{key}={value}" for key, value in settings[f"t{uri.split('/')[3]}"].items()]
        config = resolve("b3", given, {}).config.flat()
        return SimpleNamespace(trial=lambda: SimpleNamespace(config=config))

    def milliseconds(member: Candidate) -> float:
        asked.append(member.trial)
        return float(member.trial)

    monkeypatch.setattr(speed, "trial_at", trial_at)
    monkeypatch.setattr(speed, "_milliseconds", milliseconds)
    return asked


def test_encoders_of_one_shape_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and rates cost nothing; pooling and size do; frozen ones are one encoder."""
    asked = fake_trials(
        monkeypatch,
        t0001={"optim.lr": 1e-4},
        t0002={"optim.lr": 1e-5, "model.encoder_dropout": 0.3},
        t0004={"model.pooling": "mean"},
        t0008={},
        t0016={},
        t0032={},
    )
    members = [
        replace(BASE, run_id=name, trial=name, weights_uri=f"/s/trials/{name}/weights")
        for name in ("0001", "0002", "0004", "0008", "0016", "0032")
    ]
    members[3] = replace(members[3], num_encoder_parameters=50)
    members[4:] = [replace(member, encoder="frozen") for member in members[4:]]
    total = speed.milliseconds_of(members)
    by_shape = {"0001": 3, "0002": 3, "0016": 3, "0032": 3}  # 1, 2 and the frozen one
    assert len(asked) == 3
    first = next(name for name in asked if name in by_shape)
    assert total == 3 * float(first) + 4 + 8


def test_weights_out_of_reach_give_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trials(monkeypatch, t0001={})

    def gone(member: Candidate) -> float:
        raise IntegrityError("no weights")

    monkeypatch.setattr(speed, "_milliseconds", gone)
    assert speed.milliseconds_of([BASE]) is None


def test_what_is_known_of_this_machine_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Another machine, other threads and another shape are measured, and what cannot be read."""
    asked = fake_trials(monkeypatch, t0001={}, t0002={"optim.lr": 1e-5}, t0004={})
    others = [
        replace(BASE, run_id=name, trial=name, weights_uri=f"/s/trials/{name}/weights")
        for name in ("0002", "0004")
    ]
    assert speed.milliseconds_of([BASE]) == 1.0
    assert speed.milliseconds_of([others[0]]) == 1.0
    assert speed.milliseconds_of([replace(others[1], num_encoder_parameters=7), BASE]) == 5.0
    assert asked == ["0001", "0004"]
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    assert speed.milliseconds_of([others[0]]) == 2.0
    monkeypatch.setattr("platform.node", lambda: "another")
    assert speed.milliseconds_of([others[1]]) == 4.0
    for content in ("", "[1]", "{}", '{"ms_per_sentence": null}'):
        for file in cache.iterdir():
            file.write_text(content)
        assert speed.milliseconds_of([BASE]) == 1.0
    assert asked == ["0001", "0004", "0002", "0004", *["0001"] * 4]


def test_a_number_of_a_busy_hour_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    asked = fake_trials(monkeypatch, t0001={})
    for age in (0, 0.9, 1.1, 0):  # times as old as what is kept
        for file in cache.glob("*"):
            os.utime(file, times=(then := time.time() - age * speed.KEPT_SECONDS, then))
        speed.milliseconds_of([BASE])
    assert len(asked) == 2


def test_what_is_known_takes_no_model() -> None:
    code = (
        "import sys, ensemble.inference.speed, ensemble.presentation.words\n"
        "print({'torch', 'transformers', 'mlflow', 'ray', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
