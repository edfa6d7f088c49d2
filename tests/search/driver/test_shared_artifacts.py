"""Artifacts that trials share are created first, count as the sweep's usage, and can be stopped."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mlflow_setup.tracking.store import Tracking
from search.driver import shared_artifacts as preparing
from search.driver.budget import sweep_usage
from search.driver.shared_artifacts import prepare
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.pretraining.pretrain import ENCODERS
from trainable.storage.trial_folder import TrialFolder
from trainable.tune.placement import TrialPlacement


@pytest.fixture(autouse=True)
def _keep_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


class Ray:
    """Runs each task at once in this process."""

    def remote(self, **_: float) -> Callable[[Callable[..., Any]], Any]:
        return lambda task: SimpleNamespace(remote=task)

    def wait(self, sent: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return sent, []

    def get(self, sent: list[Any]) -> list[Any]:
        return sent


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialPlacement:
    monkeypatch.setattr(preparing, "ray", Ray())
    return TrialPlacement(tmp_path / "runs", "s", 1, usd_per_hour={"local": 3600.0})


@pytest.fixture(scope="module")
def config(tiny_data: Path, tiny_encoder: Path) -> Config:
    given = [f"data.dir={tiny_data}", f"model.encoder={tiny_encoder}", "pretrain.enabled=true"]
    return resolve("b3", [*given, "pretrain.num_epochs=1"], {}).config


def make(config: Config, place: TrialPlacement, is_stopping: Callable[[], bool]) -> None:
    needs = {"CPU": 1.0, "GPU": 0.0}
    prepare([config, config], place, Tracking("unused"), needs, Console(quiet=True), is_stopping)


def test_an_encoder_is_created_once_and_counts_as_the_sweeps_usage(
    config: Config, place: TrialPlacement
) -> None:
    make(config, place, lambda: False)
    (encoder,) = (place.shared / ENCODERS).glob("*/config.json")
    assert encoder.is_file()
    (attempt,) = TrialFolder(place.preparation(1)).attempts()
    assert attempt.is_over
    assert attempt.seconds > 0
    used = sweep_usage(SweepFolder(place.storage, "s"))
    assert used.trial_hours == pytest.approx(attempt.seconds / 3600)
    assert used.usd > 0


def test_the_creation_stops_with_the_sweep_and_continues_with_it(
    config: Config, place: TrialPlacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainable.tune.attempt._POLL_SECONDS", 0.0)
    stop_file = place.limits().stop_file
    stop_file.parent.mkdir(parents=True)
    stop_file.touch()
    asked: list[bool] = []
    make(config, place, lambda: not asked.append(True))  # type: ignore[func-returns-value]
    assert asked
    assert not list((place.shared / ENCODERS).glob("*/config.json"))
    stop_file.unlink()
    make(config, place, lambda: False)
    assert list((place.shared / ENCODERS).glob("*/config.json"))
    assert len(TrialFolder(place.preparation(1)).attempts()) == 2
