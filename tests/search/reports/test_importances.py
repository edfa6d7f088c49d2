"""Importances of settings, on a surface on which they are known."""

import math
import random
from pathlib import Path

import pytest
from past_sweep import SPACE as PAST_SPACE
from past_sweep import Past

from mlflow_setup.errors import NothingUsableError
from mlflow_setup.schema import EpochRecord, Outcome
from search.reports.importances import EVALUATORS, NUM_DRAWS, read_insight

SPACE = {**PAST_SPACE, "model.head_dropout": {"type": "float", "low": 0.0, "high": 0.5}}


@pytest.fixture
def past(tmp_path: Path) -> Past:
    """Trials whose score depends on the learning rate only, not on dropout and MNR."""
    past, draw = Past(tmp_path, space=SPACE, first_trials=[]), random.Random(0)
    for number in range(1, 31):
        searched = {
            "optim.lr": 10 ** draw.uniform(-5, -2),
            "model.head_dropout": draw.uniform(0, 0.5),
            "loss.mnr.enabled": number % 2 == 0,
        }
        if searched["loss.mnr.enabled"]:
            searched["loss.mnr.weight"] = draw.uniform(0.1, 9)
        value = 0.8 - 0.1 * abs(math.log10(searched["optim.lr"] / 3e-4))
        past.trial(f"{number:04d}", (value,) * 4, Outcome.FINISHED, **searched)
    return past


def test_both_methods_find_the_important_setting(past: Past) -> None:
    insight = read_insight(past.folder)
    assert insight.num_finished == 30
    assert next(iter(insight.importances)) == "optim.lr"
    for method in EVALUATORS:
        share = {key: found[method] for key, found in insight.importances.items()}
        assert (share["optim.lr"] or 0) > 0.6
    assert set(insight.importances) == set(SPACE)


def test_ranges_of_importances_over_subsets_of_trials(past: Past) -> None:
    insight = read_insight(past.folder)
    assert insight.num_draws == NUM_DRAWS
    for method in EVALUATORS:
        low, high = insight.ranges[method]["optim.lr"]
        assert 0 < low < high <= 1
        other = insight.ranges[method]["model.head_dropout"]
        assert 0 <= other[0] < other[1]
        assert sum(other) < low + high


def test_too_few_trials_and_an_empty_space_are_refused(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.5,) * 4, Outcome.FINISHED, **{"optim.lr": 1e-3})
    with pytest.raises(NothingUsableError, match="1 finished trials; 4 are needed"):
        read_insight(past.folder)
    (tmp_path / "other").mkdir()
    empty = Past(tmp_path / "other", space={}, first_trials=["b2"])
    with pytest.raises(NothingUsableError, match="its space is empty"):
        read_insight(empty.folder)


def test_equal_values_have_finite_importances(tmp_path: Path) -> None:
    past = Past(tmp_path)
    for number in range(1, 7):
        past.trial(f"{number:04d}", (0.5,) * 4, Outcome.FINISHED, **{"optim.lr": number * 1e-4})
    insight = read_insight(past.folder)
    shares = [share or 0 for found in insight.importances.values() for share in found.values()]
    assert all(math.isfinite(share) for share in shares)


def test_importances_for_the_mean_of_several_objectives(tmp_path: Path) -> None:
    tasks = {"data.tasks": ["sentiment", "paraphrase"], "train.num_epochs": 4}
    given = {"config": tasks, "first_trials": [], "search": {"objective": "tasks"}}
    past, draw = Past(tmp_path, space=SPACE, **given), random.Random(0)
    for number in range(1, 21):
        rate = 10 ** draw.uniform(-5, -2)
        value = 0.8 - 0.1 * abs(math.log10(rate / 3e-4))
        name, drops = f"{number:04d}", draw.uniform(0, 0.5)
        searched = {"optim.lr": rate, "model.head_dropout": drops, "loss.mnr.enabled": False}
        past.trial(name, (value,), Outcome.FINISHED, **searched)
        metrics = {"dev/overall": value, "dev/paraphrase/accuracy": value}
        metrics["dev/sentiment/accuracy"] = value
        past.folder.trial(name).write_epoch(EpochRecord(1, metrics, {}, 1.0, 0.0))
    insight = read_insight(past.folder)
    assert insight.num_finished == 20
    assert next(iter(insight.importances)) == "optim.lr"
