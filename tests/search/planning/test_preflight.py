"""What is refused before a sweep begins."""

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


def test_a_name_whose_sweep_is_being_run_is_refused_with_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    folder, tracking = SweepFolder(tmp_path, "s"), resolve_tracking(tmp_path)
    folder.create(sweep_of(tmp_path))
    with pytest.raises(ConfigError, match="'s' already exists"):
        refuse_taken(folder, tracking)
    with Lease(folder.path) as held:
        words = rf"sweep s is being run by process {os.getpid()} on {held.mine.host}, since 2\d+-"
        with pytest.raises(ConfigError, match=words):
            refuse_taken(folder, tracking)


def test_what_the_trials_read_is_fixed_when_the_sweep_begins(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder at a URI is listed once; the encoders that the search may draw are among them."""
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    uri, encoder = f"file://{data}", f"file://{tiny_encoder}"
    listed: list[str] = []
    once = remote.listing
    monkeypatch.setattr(
        "search.planning.preflight.listing", lambda uri: listed.append(uri) or once(uri)
    )
    space = {"model.encoder": {"type": "categorical", "choices": ["bert-base-uncased", encoder]}}
    sweep = sweep_of(tmp_path, config={"data.dir": uri}, space=space)
    began = read_inputs(sweep, known_configs(sweep))
    assert sorted(listed) == [uri, encoder] == sorted(began.folders)
    assert {source.data_dir for source in began.examples} == {uri}
    folder = SweepFolder(tmp_path / "runs", "s")
    folder.create(sweep)
    assert folder.inputs() == Inputs()  # of an older release
    folder.write_inputs(began)
    refuse_other_inputs(folder.inputs(), read_inputs(sweep, known_configs(sweep)))
    file = data / "ids-sst-dev.csv"
    file.write_text(file.read_text() + "x\tnew\ta film\t1\n")
    with pytest.raises(ChangedInputError, match=rf"since the sweep began: {uri}/ids-sst-dev\.csv"):
        refuse_other_inputs(folder.inputs(), read_inputs(sweep, known_configs(sweep)))
    (folder.path / INPUTS_FILE).write_text("{}")
    with pytest.raises(IntegrityError, match=r"inputs\.json: .*\nfix: rm "):
        folder.inputs()


def test_an_encoder_that_is_not_there_is_found_before_the_sweep(
    tmp_path: Path, tiny_data: Path
) -> None:
    config = {"data.dir": str(tiny_data), "model.encoder": "file:///nowhere/at/all"}
    sweep = sweep_of(tmp_path, config=config)
    with pytest.raises(PartialError, match="there is no such folder"):
        read_inputs(sweep, known_configs(sweep))


def test_inputs_are_found_below_a_storage_folder_that_was_renamed(
    tmp_path: Path, tiny_data: Path
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "runs" / "data"))
    folder = SweepFolder(tmp_path / "runs", "s")
    sweep = sweep_of(tmp_path, config={"data.dir": str(data)})
    folder.create(sweep)
    folder.write_inputs(read_inputs(sweep, known_configs(sweep)))
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = SweepFolder(tmp_path / "moved", "s")
    found = read_inputs(moved.read(), known_configs(moved.read()))
    assert found == moved.inputs()
