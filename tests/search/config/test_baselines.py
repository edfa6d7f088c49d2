"""The baselines of a sweep: which trials they are, and that the search ignores them."""

from pathlib import Path
from typing import Any

import yaml

from search.algorithms.optuna_searcher import OptunaSearcher
from search.config.baselines import BASELINES, baselines
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from trainable.config.parse import from_flat


def sweep_of(tmp_path: Path, **content: Any) -> SweepConfig:
    path = tmp_path / "mine.yaml"
    search = {"num_samples": 2, **content.pop("search", {})}
    path.write_text(yaml.safe_dump({"recipe": "b1", "search": search, **content}))
    return read_sweep(str(path), ["data.dir=/data", "data.train_fraction=0.5"], {})


def test_baselines_have_the_sweeps_data_encoder_and_scored_tasks(
    tmp_path: Path,
) -> None:
    found = baselines(sweep_of(tmp_path, config={"model.encoder": "minilm", "optim.lr": 0.1}))
    assert tuple(found) == BASELINES
    for name, given in found.items():
        config = from_flat(given.settings)
        assert given.recipe == name
        assert config.data.tasks == ("sentiment", "paraphrase", "similarity")
        assert (config.data.dir, config.data.train_fraction) == ("/data", 0.5)
        assert (config.model.encoder, config.train.stages) == ("minilm", ("fit",))
        assert given.settings.get("optim.lr") != 0.1


def test_each_searched_encoder_has_a_linear_baseline(tmp_path: Path) -> None:
    choices = ["minilm", "org/other-encoder"]
    space = {"model.encoder": {"type": "categorical", "choices": choices}}
    found = baselines(sweep_of(tmp_path, space=space))
    names = ["majority", "frozen-linear-minilm", "frozen-linear-other-encoder"]
    assert list(found) == names
    assert [found[name].settings["model.encoder"] for name in names[1:]] == choices


def test_baselines_can_be_switched_off(tmp_path: Path) -> None:
    assert baselines(sweep_of(tmp_path, search={"baselines": False})) == {}


def test_baselines_run_first_and_are_not_in_the_study(tmp_path: Path) -> None:
    space = {"optim.lr": {"type": "float", "low": 1e-5, "high": 1e-2}}
    searcher = OptunaSearcher(sweep_of(tmp_path, space=space))
    names = []
    for number in range(3):
        suggested = searcher.suggest(str(number))
        assert isinstance(suggested, dict)
        names.append(suggested["trial"])
        ended = {"epoch": 1, "num_epochs": 1, "best_overall": 0.7, "diverged": 0}
        searcher.on_trial_complete(str(number), ended)
    assert names == ["majority", "frozen-linear", "0001"]
    assert [trial.value for trial in searcher.study.trials] == [0.7]
    assert [trial.params.keys() for trial in searcher.study.trials] == [{"optim.lr"}]
    searcher.suggest("4")
    assert searcher.num_left == 1
