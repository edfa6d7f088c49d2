"""A sweep's usage, lost attempts included, and its budget."""

import time
from pathlib import Path

import pytest
from past_sweep import Past, sweep_of

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.runs.usage import Usage, usage_of
from mlflow_setup.schema import AttemptRecord, Outcome
from search.cluster.slots import Slots, unpriced
from search.config.sweep_config import Budget, Resources
from search.driver import budget as budgets
from search.driver.budget import Meter, sweep_usage
from trainable.storage.trial_folder import TrialFolder
from trainable.tune.cluster import Node
from trainable.tune.placement import TrialPlacement


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Past:
    """Two trials on half a GPU: one with an attempt of an hour, one with two attempts."""
    monkeypatch.setattr(budgets, "CHECK_SECONDS", 0.0)
    past = Past(tmp_path)
    seconds = {"0001-b2": (3600.0,), "0002": (1800.0, 5400.0)}
    for name, attempts in seconds.items():
        past.trial(name, (0.5,), Outcome.FINISHED)
        for number, used in enumerate(attempts, start=1):
            write_attempt(past, name, number, used)
    return past


def write_attempt(
    past: Past, name: str, number: int, seconds: float, *, is_over: bool = False
) -> None:
    record = AttemptRecord("host", "gpu_spot", 4.0, 0.5, 0.25, time.time(), seconds, is_over)
    path = past.folder.trial(name).path / "attempts" / f"{number:04d}.json"
    write_atomic(path, record.to_json())


def test_usage_includes_lost_attempts(past: Past) -> None:
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
def test_the_first_limit_that_is_reached_is_reported(
    past: Past, limits: dict[str, float], problem: str | None
) -> None:
    assert Meter(past.folder, Budget.model_validate(limits)).problem() == problem


def test_folders_of_ended_trials_are_read_once(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    write_attempt(past, "0003", 1, 3600.0, is_over=True)  # no outcome: more attempts may follow
    past.trial("0004", (0.5,), Outcome.FINISHED)
    write_attempt(past, "0004", 1, 3600.0, is_over=True)
    read: list[str] = []
    attempts = TrialFolder.attempts
    monkeypatch.setattr(
        TrialFolder, "attempts", lambda self: (read.append(self.path.name), attempts(self))[1]
    )
    meter = Meter(past.folder, Budget(max_gpu_hours=2.5))
    for _ in range(2):
        assert meter.problem() == "budget.max_gpu_hours=2.5 is used up"
    assert sorted(read) == ["0001-b2", "0001-b2", "0002", "0002", "0003", "0003", "0004"]
    write_attempt(past, "0003", 2, 3600.0)
    meter.budget = Budget(max_gpu_hours=2.9)
    assert meter.problem() == "budget.max_gpu_hours=2.9 is used up"  # with the hour of 0004


def test_nodes_without_a_price_are_reported() -> None:
    resources, slots = Resources(), Slots(1.0, 2)
    nodes = [
        Node({"CPU": 8.0}, "head"),  # no trial fits there
        Node({"CPU": 4.0, "GPU": 1.0}, "gpu_spot"),
        Node({"CPU": 4.0, "GPU": 1.0}, "gpu_ondemand"),
    ]
    priced = Budget(usd_per_hour={"gpu_spot": 0.5})
    message = "no price is known for gpu_ondemand: the highest known price is charged"
    assert unpriced(priced, resources, slots, nodes) == message
    assert unpriced(priced, resources, slots, nodes[:2]) is None
    assert unpriced(Budget(), resources, slots, nodes) is None
    local = [Node({"CPU": 2.0})]
    assert "for local:" in str(unpriced(priced, resources, Slots(0.0, 2), local))


@pytest.mark.parametrize(
    ("node_type", "num_threads", "num_gpus", "price"),
    [
        ("gpu_spot", 4, 1.0, 0.5),  # all of it
        ("gpu_spot", 2, 0.5, 0.25),  # half its GPU
        ("gpu_spot", 2, 0.0, 0.25),  # half its CPUs
        ("gpu_spot", 8, 4.0, 0.5),  # at most the whole node
        ("cpu", 1, 0.0, 0.05),
        ("other", 2, 0.5, 0.25),  # unknown: the highest price
    ],
)
def test_a_trial_pays_for_its_share_of_the_node(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    node_type: str,
    num_threads: int,
    num_gpus: float,
    price: float,
) -> None:
    node = {"CPU": 4.0, "GPU": 1.0}
    monkeypatch.setattr("trainable.tune.placement._this_node", lambda: (node_type, node))
    prices = {"gpu_spot": 0.5, "cpu": 0.2}
    place = TrialPlacement(tmp_path, "s", num_threads, num_gpus, usd_per_hour=prices)
    assert place.limits().usd_per_hour == pytest.approx(price)


def test_a_budget_in_money_needs_prices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget.max_usd: budget.usd_per_hour has no price"):
        sweep_of(tmp_path, budget={"max_usd": 3})
    sweep_of(tmp_path, budget={"max_usd": 3, "usd_per_hour": {"local": 0.5}})
