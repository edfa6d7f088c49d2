"""What a sweep used, lost work included, and when that is enough."""

import time
from pathlib import Path

import pytest
from past_sweep import Past, sweep_of

from mlflow_setup.errors import ConfigError
from mlflow_setup.files import write_atomic
from mlflow_setup.schema import AttemptRecord, Outcome
from mlflow_setup.usage import Usage, usage_of
from search import budget as budgets
from search.budget import Meter, sweep_usage
from search.sweep_config import Budget


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Past:
    """Two trials: an hour on half a GPU, and two tries, the first of them lost."""
    monkeypatch.setattr(budgets, "CHECK_SECONDS", 0.0)
    past = Past(tmp_path)
    seconds = {"0001-b2": (3600.0,), "0002": (1800.0, 5400.0)}
    for name, tries in seconds.items():
        past.trial(name, (0.5,), Outcome.FINISHED)
        for number, used in enumerate(tries, start=1):
            record = AttemptRecord("host", "gpu_spot", 4.0, 0.5, 0.25, time.time(), used)
            path = past.folder.trial(name).path / "attempts" / f"{number:04d}.json"
            write_atomic(path, record.to_json())
    return past


def test_every_second_counts_that_of_lost_work_too(past: Past) -> None:
    assert sweep_usage(past.folder) == Usage(trial_hours=3.0, gpu_hours=1.5, usd=0.75)
    assert sweep_usage(past.folder).describe() == "3.00 trial-hours, 1.50 GPU-hours, 0.75 USD"
    assert usage_of(()).describe() == "0.00 trial-hours"


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({}, None),
        ({"max_gpu_hours": 1.6, "max_usd": 0.8, "max_hours": 1.0}, None),
        ({"max_gpu_hours": 1.5}, "budget.max_gpu_hours=1.5 is used up"),
        ({"max_usd": 0.5}, "budget.max_usd=0.5 is used up"),
        ({"max_hours": 1e-12}, "budget.max_hours=1e-12 is used up"),
    ],
)
def test_the_first_limit_that_is_reached_is_named(
    past: Past, limits: dict[str, float], problem: str | None
) -> None:
    assert Meter(past.folder, Budget.model_validate(limits)).problem() == problem


def test_money_without_prices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget.max_usd: budget.usd_per_hour has no price"):
        sweep_of(tmp_path, budget={"max_usd": 3})
    sweep_of(tmp_path, budget={"max_usd": 3, "usd_per_hour": {"local": 0.5}})
