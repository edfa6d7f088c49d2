"""Checks before a sweep begins: its name and its inputs."""

import os
import shutil
from pathlib import Path

import pytest
from past_sweep import sweep_of

from mlflow_setup.errors import ConfigError, IntegrityError, PartialError
from mlflow_setup.filesystem import lease
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.tracking.store import resolve_tracking
from search.planning.preflight import (
    known_configs,
    read_inputs,
    refuse_other_inputs,
    refuse_taken,
)
from search.storage.sweep_folder import INPUTS_FILE, SweepFolder
from trainable.data import remote
from trainable.data.inputs import ChangedInputError, Inputs


def test_the_name_of_a_running_sweep_is_refused_with_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    folder, tracking = SweepFolder(tmp_path, "s"), resolve_tracking(tmp_path)
    folder.create(sweep_of(tmp_path))
    with pytest.raises(ConfigError, match="'s' already exists"):
        refuse_taken(folder, tracking)
    with Lease(folder.path) as held:
        message = rf"sweep s is being run by process {os.getpid()} on {held.mine.host}, since 2\d+-"
        with pytest.raises(ConfigError, match=message):
            refuse_taken(folder, tracking)


def test_inputs_are_recorded_when_the_sweep_begins(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder at a URI is listed once, those of searched encoders too."""
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    uri, encoder = f"file://{data}", f"file://{tiny_encoder}"
    listed: list[str] = []
    listing = remote.listing
    monkeypatch.setattr(
        "search.planning.preflight.listing", lambda uri: listed.append(uri) or listing(uri)
    )
    space = {"model.encoder": {"type": "categorical", "choices": ["bert-base-uncased", encoder]}}
    sweep = sweep_of(tmp_path, config={"data.dir": uri}, space=space)
    inputs = read_inputs(sweep, known_configs(sweep))
    assert sorted(listed) == [uri, encoder] == sorted(inputs.folders)
    assert {source.data_dir for source in inputs.examples} == {uri}
    folder = SweepFolder(tmp_path / "runs", "s")
    folder.create(sweep)
    assert folder.inputs() == Inputs()  # as of an older release
    folder.write_inputs(inputs)
    refuse_other_inputs(folder.inputs(), read_inputs(sweep, known_configs(sweep)))
    file = data / "ids-sst-dev.csv"
    file.write_text(file.read_text() + "x\tnew\ta film\t1\n")
    with pytest.raises(ChangedInputError, match=rf"since the sweep began: {uri}/ids-sst-dev\.csv"):
        refuse_other_inputs(folder.inputs(), read_inputs(sweep, known_configs(sweep)))
    (folder.path / INPUTS_FILE).write_text("{}")
    with pytest.raises(IntegrityError, match=r"inputs\.json: .*\nfix: rm "):
        folder.inputs()


def test_a_missing_encoder_is_refused_before_the_sweep(tmp_path: Path, tiny_data: Path) -> None:
    config = {"data.dir": str(tiny_data), "model.encoder": "file:///nowhere/at/all"}
    sweep = sweep_of(tmp_path, config=config)
    with pytest.raises(PartialError, match="there is no such folder"):
        read_inputs(sweep, known_configs(sweep))


def test_inputs_in_a_renamed_storage_folder_are_found(tmp_path: Path, tiny_data: Path) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "runs" / "data"))
    folder = SweepFolder(tmp_path / "runs", "s")
    sweep = sweep_of(tmp_path, config={"data.dir": str(data)})
    folder.create(sweep)
    folder.write_inputs(read_inputs(sweep, known_configs(sweep)))
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = SweepFolder(tmp_path / "moved", "s")
    found = read_inputs(moved.read(), known_configs(moved.read()))
    assert found == moved.inputs()
