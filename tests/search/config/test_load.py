"""Sweep files: what they resolve to, and reports of their problems."""

from pathlib import Path

import optuna
import pytest
import yaml

from mlflow_setup.errors import ConfigError
from search.config.load import SWEEPS, read_sweep
from search.config.space import suggest
from search.config.sweep_config import SweepConfig
from trainable.config.parse import from_flat

SWEEP = {
    "description": "a sweep",
    "recipe": "b3",
    "config": {"model": {"encoder": "minilm"}, "train.num_epochs": 4},
    "space": {
        "optim.lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "loss.mnr.enabled": {"type": "categorical", "choices": [True, False]},
        "loss.mnr.weight": {
            "type": "float",
            "low": 0.1,
            "high": 10.0,
            "when": {"loss.mnr.enabled": True},
        },
    },
    "first_trials": ["baseline", {"recipe": "b2", "optim.lr": 2e-4}],
    "search": {"num_samples": 5},
}


def read(tmp_path: Path, changes: dict[str, object], *overrides: str, **env: str) -> SweepConfig:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False), encoding="utf-8")
    return read_sweep(str(path), overrides, env)


@pytest.mark.parametrize("name", SWEEPS.names())
def test_every_packaged_sweep_resolves(name: str) -> None:
    sweep = read_sweep(name, environment={})
    assert sweep.name == name
    assert sweep.description
    assert sweep.space


def test_selective_runs_the_named_recipes_first_with_its_own_fixed_settings() -> None:
    sweep = read_sweep("selective", environment={})
    settings, point = sweep.first(0)
    assert settings.recipe == "lp-ft"
    assert settings.settings["model.encoder"] == "minilm"
    assert settings.settings["batching.strategy"] == "even"
    assert (point["optim.lr"], point["loss.mnr.weight"]) == (5e-5, 0.1)


SETTINGS: dict[str, dict[str, tuple[float, float] | list[object]]] = {
    "loss.mnr": {"scale": (1.0, 40.0), "weight": (0.1, 10.0), "similarity": ["cosine", "dot"]},
    "loss.simcse": {"temperature": (0.02, 0.5), "weight": (0.1, 10.0)},
    "loss.smart": {
        **{"step_size": (1e-4, 1e-1), "radius": (1e-4, 1e-1), "weight": (0.1, 10.0)},
        **{"norm": ["linf", "l2"], "place": ["input", "pooled"], "num_steps": [1, 3]},
    },
    "distill": {"weight": (0.1, 0.9), "place": ["mix", "head"], "num_teachers": [1, 3]},
    "pretrain": {"lr": (1e-5, 1e-4), "mask_fraction": (0.1, 0.4), "whole_word": [True, False]},
}


def test_every_technique_and_its_settings_can_be_searched(tmp_path: Path) -> None:
    """A switch for each technique, and its settings, which are searched only while it is on."""
    space: dict[str, dict[str, object]] = {
        f"{technique}.enabled": {"type": "categorical", "choices": [True, False]}
        for technique in SETTINGS
    }
    for technique, settings in SETTINGS.items():
        for name, values in settings.items():
            parameter: dict[str, object] = {"type": "categorical", "choices": values}
            if isinstance(values, tuple):
                parameter = {"type": "float", "low": values[0], "high": values[1]}
            condition = {"when": {f"{technique}.enabled": True}}
            space[f"{technique}.{name}"] = {**parameter, **condition}
    space["optim.weight_decay"] = {"type": "float", "low": 0.0, "high": 0.1}
    space["model.head_dropout"] = {"type": "float", "low": 0.01, "high": 0.5}
    space["train.early_stopping_epochs"] = {"type": "int", "low": 1, "high": 5}
    sweep = read(tmp_path, {"space": space, "first_trials": []})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    base = sweep.base()
    drawn = [suggest(sweep.space, study.ask(), base.with_defaults) for _ in range(60)]
    assert {key for point in drawn for key in point} == set(space)
    for point in drawn:
        config = from_flat({**base.settings, **point}).flat()
        assert {key: config[key] for key in point} == point


def test_fixed_settings_override_the_recipe(tmp_path: Path) -> None:
    base = read(tmp_path, {}).base()
    assert base.settings["train.num_epochs"] == 4
    assert base.settings["model.shared_fcn"] is True
    assert base.origin["train.num_epochs"] == "sweep mine"
    assert base.origin["model.shared_fcn"] == "recipe b3"
    assert "loss.mnr.enabled" not in base.settings  # searched


def test_a_first_trial_has_all_settings_of_its_recipe(tmp_path: Path) -> None:
    sweep = read(tmp_path, {"first_trials": [{"recipe": "b1", "optim.lr": 1e-4}]})
    settings, point = sweep.first(0)
    assert "nli" in settings.settings["data.tasks"]
    assert settings.settings["model.head_dropout"] == 0.0
    assert settings.settings["model.encoder"] == "minilm"
    assert point == {"optim.lr": 1e-4, "loss.mnr.enabled": True, "loss.mnr.weight": 1.0}


@pytest.mark.parametrize(
    ("overrides", "env", "origin"),
    [
        (["optim.lr=3e-4"], {}, "command line"),
        ([], {"ENSWEEP_OPTIM__LR": "3e-4"}, "env ENSWEEP_OPTIM__LR"),
        (["optim.lr=3e-4"], {"ENSWEEP_OPTIM__LR": "1e-4"}, "command line"),
    ],
)
def test_an_override_fixes_the_key_everywhere(
    tmp_path: Path, overrides: list[str], env: dict[str, str], origin: str
) -> None:
    sweep = read(tmp_path, {}, *overrides, **env)
    assert "optim.lr" not in sweep.space
    for start in (sweep.base(), sweep.first(0)[0], sweep.first(1)[0]):
        assert start.settings["optim.lr"] == 3e-4
        assert start.origin["optim.lr"] == origin


def test_sweep_keys_can_be_overridden(tmp_path: Path) -> None:
    sweep = read(tmp_path, {}, "search.num_samples=7", "scheduler.name=none", "keep_pruned_top=0")
    assert (sweep.search.num_samples, sweep.scheduler.name, sweep.keep_pruned_top) == (7, "none", 0)


def test_the_data_folder_becomes_absolute(tmp_path: Path) -> None:
    sweep = read(tmp_path, {}, "data.dir=some/data")
    assert sweep.config["data.dir"] == str(Path("some/data").resolve())


def test_a_written_sweep_file_resolves_to_the_same_sweep(tmp_path: Path) -> None:
    sweep = read(tmp_path, {}, "optim.lr_decay=0.5", "resources.cpus_per_trial=2")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(sweep.to_file(), sort_keys=False), encoding="utf-8")
    again = read_sweep(str(path), (), {})
    assert again.model_dump(exclude={"origin"}) == sweep.model_dump(exclude={"origin"})


def test_recipes_beside_the_sweep_are_found(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("extends: b3\noptim.lr_decay: 0.25\n", encoding="utf-8")
    sweep = read(tmp_path, {"recipe": "own.yaml", "first_trials": ["own.yaml"]})
    assert sweep.base().settings["optim.lr_decay"] == 0.25
    assert sweep.first(0)[0].settings["optim.lr_decay"] == 0.25


LR = {"type": "float", "low": 1e-5, "high": 1e-3}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"space": {"optim.Lr": LR}}, ["space: no key optim.Lr (did you mean optim.lr?)"]),
        ({"config": {"optim.lrr": 1e-4}}, ["config: no key optim.lrr (did you mean optim.lr?)"]),
        ({"serach": {}}, ["serach: no such key (did you mean search?)"]),
        ({"name": "s"}, ["name: no such key; a sweep is named by its file"]),
        ({"search": {"num_sample": 3}}, ["search.num_sample: no such key", "search.num_samples"]),
        ({"search": {"num_samples": 0}}, ["search.num_samples: input should be greater"]),
        ({"search": 3}, ["search: expected a mapping, got 3"]),
        (
            {"scheduler": {"name": "hyperband"}},
            ["scheduler.name", "'halving', 'asha', 'median' or 'none'"],
        ),
        ({"config": {"optim.lr": 1e-4}}, ["optim.lr: is both fixed under config and searched"]),
        (
            {"space": {"optim.lr": {**LR, "high": 3.0}}, "first_trials": []},
            ["space: at optim.lr=3.0: optim.lr: input should be less than 1, got 3.0"],
        ),
        (
            {
                "space": {
                    "model.fcn_size": {"type": "float", "low": 1, "high": 2},
                    "optim.lr": {"type": "float", "low": 0.0, "high": 0.1},
                }
            },
            ["problems:", "model.fcn_size: input should be a valid integer", "optim.lr: input"],
        ),
        (
            {
                "config": {"loss.simcse.enabled": True, "model.encoder_dropout": 0.0},
                "space": {"model.head_dropout": {"type": "float", "low": 0.0, "high": 0.5}},
            },
            ["without any dropout both views are identical"],
        ),
        (
            {"space": {"optim.lr": {**LR, "when": {"loss.mnr.enable": True}}}},
            ["space.optim.lr.when: no key loss.mnr.enable (did you mean loss.mnr.enabled?)"],
        ),
        (
            {
                "space": {
                    "loss.mnr.weight": {
                        "type": "float",
                        "low": 1,
                        "high": 2,
                        "when": {"loss.mnr.enabled": True},
                    },
                    "loss.mnr.enabled": {"type": "categorical", "choices": [True, False]},
                }
            },
            ["loss.mnr.enabled must come before loss.mnr.weight"],
        ),
        (
            {
                "space": {
                    "model.pooling": {"type": "categorical", "choices": ["cls", "mean"]},
                    "optim.lr": {**LR, "when": {"model.pooling": "max"}},
                }
            },
            ["space.optim.lr.when: model.pooling is never 'max': one of ['cls', 'mean']"],
        ),
        (
            {"first_trials": [{"recipe": "b3", "optim.lr": 0.5}]},
            ["first_trials 1 (b3): optim.lr=0.5 is outside the space, 1e-05..0.001 (log)"],
        ),
        ({"first_trials": ["b33"]}, ["first_trials 1 (b33): no recipe 'b33'; there are b3, "]),
        ({"first_trials": [{"optim.lr": 1}]}, ["first_trials: number 1 names no recipe"]),
        (
            {"first_trials": ["b1"], "config": {"loss.mnr.enabled": False}, "space": {}},
            ["first_trials 1 (b1): data.tasks: nli has no loss of its own"],
        ),
    ],
)
def test_problems_in_a_sweep_file_are_reported(
    tmp_path: Path, changes: dict[str, object], messages: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, changes)
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.Lr=1", "no key optim.Lr (did you mean optim.lr?)"),
        ("search.num_smaples=1", "search.num_smaples: no such key"),
        ("serach.num_samples=1", "did you mean search.num_samples?"),
        ("optim.lr", "'optim.lr' is not key=value"),
    ],
)
def test_wrong_overrides_are_reported(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, {}, override)
    assert message in str(caught.value)


def test_an_unknown_sweep_is_reported_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no sweep 'selectiv'; there are selective, "):
        read_sweep("selectiv")


def test_a_recipe_in_place_of_a_sweep_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("extends: b3\noptim.lr: 0.001\n")
    with pytest.raises(ConfigError, match="is a recipe, not a sweep") as refused:
        read_sweep(str(path))
    assert str(refused.value.fix).startswith(f"ensweep train {path} ")
    with pytest.raises(ConfigError, match=r"no such file \(did you mean recipe\.yaml\?\)$"):
        read_sweep(str(tmp_path / "recpe.yaml"))
