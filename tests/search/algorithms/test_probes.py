"""Probes search the settings of heads; the trials after them start from the best probes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_setup.errors import ConfigError
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.probes import effective_space
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig

SPACE = {
    "probe.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "optim.lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "optim.layer_decay": {"type": "float", "low": 0.5, "high": 1.0},
    "model.fcn_size": {"type": "int", "low": 8, "high": 512},
}
OF_HEADS = {"probe.lr", "model.fcn_size"}


def sweep_of(tmp_path: Path, recipe: str = "lp-ft", **search: Any) -> SweepConfig:
    path = tmp_path / "mine.yaml"
    search = {"num_samples": 9, "num_probes": 4, "baselines": False, **search}
    content = {"recipe": recipe, "space": SPACE, "search": search, "first_trials": ["lp-ft"]}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_sweep(str(path), (), {})


def _end(searcher: OptunaSearcher, trial: dict[str, Any], value: float) -> None:
    config = trial["settings"]
    epochs = 3 if config["train.stages"] == ["probe"] else 6
    searcher.on_trial_complete(
        trial["trial"],
        {"epoch": epochs, "num_epochs": epochs, "best_overall": value, "diverged": 0},
    )


def _run(searcher: OptunaSearcher, values: dict[str, float]) -> dict[str, dict[str, Any]]:
    ran = {}
    while isinstance(trial := searcher.suggest(f"{len(ran) + 1:04d}"), dict):
        name = trial["trial"]
        searcher.running[name] = searcher.running.pop(f"{len(ran) + 1:04d}")
        ran[name] = trial
        _end(searcher, trial, values.get(name, 0.5))
    return ran


def test_the_first_trials_are_probes_that_search_settings_of_heads(tmp_path: Path) -> None:
    ran = _run(OptunaSearcher(sweep_of(tmp_path)), {})
    assert len(ran) == 9
    for name, trial in ran.items():
        is_probe = name in ("0001-lp-ft", "0002", "0003", "0004")
        assert set(trial["searched"]) == (OF_HEADS if is_probe else set(SPACE)), name
        expected = ["probe"] if is_probe else ["probe", "finetune"]
        assert trial["settings"]["train.stages"] == expected


def test_every_second_trial_starts_from_the_best_probe_that_is_left(tmp_path: Path) -> None:
    ran = _run(OptunaSearcher(sweep_of(tmp_path)), {"0003": 0.8, "0002": 0.7, "0005": 0.9})

    def heads(name: str) -> list[Any]:
        return [ran[name]["settings"][key] for key in sorted(OF_HEADS)]

    assert heads("0005") == heads("0003")
    assert heads("0007") == heads("0002")
    assert heads("0006") not in (heads("0003"), heads("0002"))
    assert ran["0005"]["origin"]["probe.lr"] == "search, from a probe"
    assert ran["0006"]["origin"]["probe.lr"] == "search"


def test_probes_without_a_stage_after_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search.num_probes: needs trials with a probe"):
        sweep_of(tmp_path, recipe="probe")
    assert sweep_of(tmp_path, recipe="probe", num_probes=0).search.num_probes == 0


def test_a_sweep_that_trains_only_heads_repeats_no_trial(tmp_path: Path) -> None:
    ran = _run(OptunaSearcher(sweep_of(tmp_path, recipe="probe", num_probes=0)), {"0003": 0.8})
    assert len({trial["settings"]["probe.lr"] for trial in ran.values()}) == len(ran) == 9


def test_settings_without_effect_in_a_stage_are_not_searched(tmp_path: Path) -> None:
    space = sweep_of(tmp_path).space
    assert set(effective_space(space, ["probe"])) == OF_HEADS
    assert set(effective_space(space, ["finetune"])) == set(SPACE) - {"probe.lr"}
