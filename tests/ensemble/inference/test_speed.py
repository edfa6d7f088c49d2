"""Milliseconds a sentence, measured with one encoder of each shape, once a machine."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ensemble.candidates.pool import Candidate
from ensemble.inference import speed
from mlflow_setup.errors import IntegrityError
from trainable.batches.tokenization import Tokens
from trainable.config.recipe import resolve

BASE = Candidate("run1", "0001", "s", 1, "/s/trials/0001/weights", 110, num_encoder_parameters=100)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was measured yet."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path))
    return tmp_path / "speeds"


def fake_trials(monkeypatch: pytest.MonkeyPatch, **settings: dict[str, Any]) -> list[str]:
    """Trials with these settings; the name of each is its time in milliseconds. Returns those that
    were measured."""
    measured: list[str] = []

    def trial_at(uri: str) -> Any:
        given = [f"{key}={value}" for key, value in settings[f"t{uri.split('/')[3]}"].items()]
        config = resolve("b3", given, {}).config.flat()
        return SimpleNamespace(trial=lambda: SimpleNamespace(config=config))

    def milliseconds(member: Candidate) -> float:
        measured.append(member.trial)
        return float(member.trial)

    monkeypatch.setattr(speed, "trial_at", trial_at)
    monkeypatch.setattr(speed, "_milliseconds", milliseconds)
    return measured


def test_encoders_of_one_shape_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooling and size determine a shape, dropout and learning rate do not; a frozen encoder is
    counted once."""
    measured = fake_trials(
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
    assert len(measured) == 3
    (of_shape,) = {"0001", "0002", "0016", "0032"} & set(measured)
    assert total == 3 * float(of_shape) + 4 + 8  # 0001, 0002 and the frozen encoder


def test_unreachable_weights_give_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trials(monkeypatch, t0001={})

    def fail(member: Candidate) -> float:
        raise IntegrityError("no weights")

    monkeypatch.setattr(speed, "_milliseconds", fail)
    assert speed.milliseconds_of([BASE]) is None


def test_times_measured_on_this_machine_are_reused(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Another shape, number of threads or machine is measured, and so are unreadable times."""
    measured = fake_trials(monkeypatch, t0001={}, t0002={"optim.lr": 1e-5}, t0004={})
    others = [
        replace(BASE, run_id=name, trial=name, weights_uri=f"/s/trials/{name}/weights")
        for name in ("0002", "0004")
    ]
    assert speed.milliseconds_of([BASE]) == 1.0
    assert speed.milliseconds_of([others[0]]) == 1.0
    assert speed.milliseconds_of([replace(others[1], num_encoder_parameters=7), BASE]) == 5.0
    assert measured == ["0001", "0004"]
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    assert speed.milliseconds_of([others[0]]) == 2.0
    monkeypatch.setattr("platform.node", lambda: "another")
    assert speed.milliseconds_of([others[1]]) == 4.0
    for content in ("", "[1]", "{}", '{"ms_per_sentence": null}'):
        for file in cache.iterdir():
            file.write_text(content)
        assert speed.milliseconds_of([BASE]) == 1.0
    assert measured == ["0001", "0004", "0002", "0004", *["0001"] * 4]


def test_old_times_are_measured_again(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    measured = fake_trials(monkeypatch, t0001={})
    for age in (0, 0.9, 1.1, 0):  # as multiples of the age at which times expire
        for file in cache.glob("*"):
            os.utime(file, times=(then := time.time() - age * speed.KEPT_SECONDS, then))
        speed.milliseconds_of([BASE])
    assert len(measured) == 2


def test_reading_measured_times_imports_no_framework() -> None:
    code = (
        "import sys, ensemble.inference.speed, ensemble.presentation.words\n"
        "print({'torch', 'transformers', 'mlflow', 'ray', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_time_is_divided_by_the_sentences_that_are_embedded(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal sentences are embedded once. A fake clock: a millisecond each."""
    clock = SimpleNamespace(now=0.0)

    def embed(model: Any, tokens: Tokens, *_: Any) -> None:
        clock.now += 0.001 * len(set(tokens.distinct_ids().tolist()))

    trial = SimpleNamespace(
        encoder_dir=tiny_encoder,
        require_weights=lambda epoch: None,
        trial=lambda: SimpleNamespace(config=resolve("b3", (), {}).config.flat()),
    )
    model = SimpleNamespace(
        max_length=128, to=lambda device: None, parameters=lambda: iter([torch.ones(1)])
    )
    monkeypatch.setattr(speed, "trial_at", lambda uri: trial)
    monkeypatch.setattr("trainable.model.multitask.load_member", lambda *_: model)
    monkeypatch.setattr("trainable.evaluation.inference.embeddings_of", embed)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    assert len(set(speed.SENTENCES)) == 64
    assert speed._milliseconds(BASE) == pytest.approx(1)


def test_a_measurement_of_other_sentences_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = fake_trials(monkeypatch, t0002={})
    member = replace(BASE, trial="0002", weights_uri="/s/trials/0002/weights")
    assert speed.milliseconds_of([member]) == speed.milliseconds_of([member]) == 2
    monkeypatch.setattr(speed, "SENTENCES", ["another"])
    assert speed.milliseconds_of([member]) == 2
    assert measured == ["0002", "0002"]
