"""A sweep is stored resolved: it needs no recipe's file any more, nor its working directory."""

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
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    """A sweep over two recipes in files, begun in the folder `home`; both paths are relative."""
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


@pytest.mark.parametrize("what", ["edited", "removed", "moved", "read from elsewhere"])
def test_a_stored_sweep_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: SweepConfig, what: str
) -> None:
    sweep = asked.map_settings(with_absolute_paths)
    folder = SweepFolder(tmp_path / "runs", "s")
    folder.create(sweep)
    before, home = trials_of(sweep), tmp_path / "home"
    if what == "edited":
        (home / "mine.yaml").write_text(yaml.safe_dump({**MINE, "model.fcn_size": 512}))
    elif what == "removed":
        (home / "mine.yaml").unlink()
    elif what == "moved":
        home.rename(tmp_path / "away")
    monkeypatch.chdir(tmp_path)
    assert trials_of(folder.read()) == before
    assert before[0][1]["model.fcn_size"] == 64
    assert before[0][1]["data.dir"] == str(home / "data")
    assert before[2][1]["model.encoder"] == str(home / "enc")
    assert before[0][2]["optim.weight_decay"] == "command line"


def test_what_lies_below_a_renamed_storage_folder_is_found_below_its_new_name(
    tmp_path: Path, asked: SweepConfig
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    bundle = {"distill.enabled": True, "distill.teacher": f"bundle:{old}/teacher"}
    inside = {"model.encoder": f"{old}/enc", "data.dir": f"{tmp_path}/older/data", **bundle}
    asked = asked.model_copy(update={"config": asked.config | inside})
    SweepFolder(old, "s").create(asked.map_settings(with_absolute_paths))
    old.rename(new)
    config = SweepFolder(new, "s").read().config
    assert config["model.encoder"] == f"{new}/enc"
    assert config["distill.teacher"] == f"bundle:{new}/teacher"
    assert config["data.dir"] == f"{tmp_path}/older/data"  # outside: its name only begins alike
    assert not old.exists()


def test_a_stored_sweep_is_a_sweep_file(tmp_path: Path, asked: SweepConfig) -> None:
    """A cluster's node reads it without the recipes' files."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sweep.yaml").write_text(yaml.safe_dump(asked.to_file()))
    shutil.rmtree(tmp_path / "home")
    again = read_sweep(str(elsewhere / "sweep.yaml"), (), {})
    assert again.to_file() == asked.to_file()


def test_a_recipe_that_is_not_there_when_the_sweep_begins_is_named(asked: SweepConfig) -> None:
    Path("other.yaml").unlink()
    with pytest.raises(ConfigError, match=r"first_trials 2 \(.*other.yaml\)"):
        read_sweep("sweep.yaml", (), {})
