"""A sweep whose recipes were in files runs the same trials from packaged recipes alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from search.config.portable import without_recipe_files

from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig, TrialSettings

MINE = {"extends": "b3", "optim.lr": 3e-4, "model.fcn_size": 64, "model.head_dropout": 0.2}
OTHER = {"extends": "mine.yaml", "model.fcn_size": 32, "loss.simcse.enabled": False}
ALONE = {"train.num_epochs": 3}


def sweep_of(folder: Path, **changes: Any) -> SweepConfig:
    for name, content in {"mine": MINE, "other": OTHER, "alone": ALONE}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    content = {
        "recipe": "mine.yaml",
        "config": {"optim.weight_decay": 0.01},
        "space": {"model.head_dropout": {"type": "float", "low": 0.0, "high": 0.5}},
        "first_trials": [
            "b2",
            "mine.yaml",
            {"recipe": "other.yaml", "optim.lr": 1e-3},
            "alone.yaml",
        ],
        "search": {"num_samples": 6},
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_sweep(str(path), (), {})


def full(given: TrialSettings) -> dict[str, Any]:
    return given.with_defaults


@pytest.mark.parametrize("recipe", ["mine.yaml", "other.yaml", "alone.yaml", "b3"])
def test_every_trial_stays_as_it_was(tmp_path: Path, recipe: str) -> None:
    sweep = sweep_of(tmp_path, recipe=recipe)
    moved = without_recipe_files(sweep)
    names = [moved.recipe, *(trial.recipe for trial in moved.first_trials)]
    assert not [name for name in names if name.endswith(".yaml")]
    searched = set(sweep.space)
    for number in range(len(sweep.first_trials)):
        before, after = sweep.first(number), moved.first(number)
        assert after[1] == before[1]  # the point in the space
        assert _without(full(after[0]), searched) == _without(full(before[0]), searched)
    assert _without(full(moved.base()), searched) == _without(full(sweep.base()), searched)


def test_it_can_be_read_again_where_the_files_are_not(tmp_path: Path) -> None:
    moved = without_recipe_files(sweep_of(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sweep.yaml").write_text(yaml.safe_dump(moved.to_file()))
    for name in ("mine", "other", "alone"):
        (tmp_path / f"{name}.yaml").unlink()
    again = read_sweep(str(elsewhere / "sweep.yaml"), (), {})
    assert again.to_file() == moved.to_file()
    assert again.recipe == "b3"


def test_a_sweep_of_packaged_recipes_is_left_alone(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, recipe="b3", first_trials=["b2"])
    assert without_recipe_files(sweep) is sweep


def _without(settings: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}
