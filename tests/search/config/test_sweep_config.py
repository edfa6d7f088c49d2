"""A sweep is stored resolved: independent of recipe files and of the working directory."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_setup.errors import ConfigError
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from search.storage.relocation import with_absolute_paths
from search.storage.sweep_folder import SweepFolder

MINE = {"extends": "b3", "optim.lr": 3e-4, "model.fcn_size": 64, "data.dir": "data"}
OTHER = {"extends": "mine.yaml", "model.fcn_size": 32, "loss.simcse.enabled": False}


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    """A sweep of two recipe files in the folder `home`, with relative paths."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "enc").mkdir()
    for name, content in {"mine": MINE, "other": OTHER}.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content))
    content = {
        "recipe": "mine.yaml",
        "config": {"model.encoder": "enc"},
        "space": {"model.head_dropout": {"type": "float", "low": 0.0, "high": 0.5}},
        "first_trials": ["b2", {"recipe": "other.yaml", "optim.lr": 1e-3}],
        "search": {"num_samples": 6},
    }
    (home / "sweep.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(home)
    return read_sweep("sweep.yaml", ["optim.weight_decay=0.02"], {})


def trials_of(sweep: SweepConfig) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Recipe, settings and origin of the base and of each first trial."""
    given = [sweep.base(), *(sweep.first(n)[0] for n in range(len(sweep.first_trials)))]
    return [(one.recipe, one.settings, one.origin) for one in given]


@pytest.mark.parametrize("change", ["edited", "removed", "moved", "read from elsewhere"])
def test_a_stored_sweep_does_not_depend_on_its_recipe_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolved: SweepConfig, change: str
) -> None:
    sweep = resolved.map_settings(with_absolute_paths)
    folder = SweepFolder(tmp_path / "runs", "s")
    folder.create(sweep)
    before, home = trials_of(sweep), tmp_path / "home"
    if change == "edited":
        (home / "mine.yaml").write_text(yaml.safe_dump({**MINE, "model.fcn_size": 512}))
    elif change == "removed":
        (home / "mine.yaml").unlink()
    elif change == "moved":
        home.rename(tmp_path / "away")
    monkeypatch.chdir(tmp_path)
    assert trials_of(folder.read()) == before
    assert before[0][1]["model.fcn_size"] == 64
    assert before[0][1]["data.dir"] == str(home / "data")
    assert before[2][1]["model.encoder"] == str(home / "enc")
    assert before[0][2]["optim.weight_decay"] == "command line"


def test_paths_in_a_renamed_storage_folder_are_updated(
    tmp_path: Path, resolved: SweepConfig
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    bundle = {"distill.enabled": True, "distill.teacher": f"bundle:{old}/teacher"}
    inside = {"model.encoder": f"{old}/enc", "data.dir": f"{tmp_path}/older/data", **bundle}
    resolved = resolved.model_copy(update={"config": resolved.config | inside})
    SweepFolder(old, "s").create(resolved.map_settings(with_absolute_paths))
    old.rename(new)
    config = SweepFolder(new, "s").read().config
    assert config["model.encoder"] == f"{new}/enc"
    assert config["distill.teacher"] == f"bundle:{new}/teacher"
    assert config["data.dir"] == f"{tmp_path}/older/data"  # outside: only a prefix is equal
    assert not old.exists()


def test_a_resolved_sweep_is_a_sweep_file_without_recipe_files(
    tmp_path: Path, resolved: SweepConfig
) -> None:
    """The nodes of a cluster read it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sweep.yaml").write_text(yaml.safe_dump(resolved.to_file()))
    shutil.rmtree(tmp_path / "home")
    read_back = read_sweep(str(elsewhere / "sweep.yaml"), (), {})
    assert read_back.to_file() == resolved.to_file()


def test_a_missing_recipe_of_a_first_trial_is_reported(resolved: SweepConfig) -> None:
    Path("other.yaml").unlink()
    with pytest.raises(ConfigError, match=r"first_trials 2 \(.*other.yaml\)"):
        read_sweep("sweep.yaml", (), {})
