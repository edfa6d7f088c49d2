"""A sweep's folder: found by name or as the latest, on disk or in a store; the space it needs."""

import os
from pathlib import Path

import pytest
from past_sweep import Past, sweep_of
from stores import URI, Machines

from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder, find_sweep, shortage, sweep_names
from trainable.storage.address import trial_at


def test_each_trial_that_is_left_needs_the_space_of_the_largest(tmp_path: Path) -> None:
    past = Past(tmp_path)
    assert shortage(past.folder, 3).endswith("MB are free on the sweep's disk")
    for name, size in (("0001-b2", 10), ("0002", 2_000_000)):
        past.trial(name, (0.5,), Outcome.FINISHED)
        (past.folder.trial(name).path / "weights").write_bytes(bytes(size))
    assert shortage(past.folder, 3).endswith("; 3 trials that are left need about 6.0 MB")
    assert shortage(past.folder, 0).endswith("on the sweep's disk")


def test_missing_invalid_and_existing_names(tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match="no sweep 'none' in"):
        SweepFolder(tmp_path, "none").read()
    with pytest.raises(NothingUsableError, match="no sweep in"):
        find_sweep(tmp_path)
    with pytest.raises(ConfigError, match="sweep"):
        SweepFolder(tmp_path, "../up")
    Past(tmp_path)
    assert find_sweep(tmp_path).name == "s"
    with pytest.raises(ConfigError, match="ensweep resume s"):
        SweepFolder(tmp_path, "s").create(sweep_of(tmp_path))


def test_the_latest_sweep_is_the_one_that_began_last(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second")):
        SweepFolder(tmp_path, name).create(sweep_of(tmp_path))
        os.utime(tmp_path / name / "sweep.yaml", (number, number))
    (tmp_path / "first" / "trials").mkdir()
    assert find_sweep(tmp_path).name == "second"
    assert find_sweep(tmp_path, "first").name == "first"


def test_a_sweep_in_an_object_store_is_the_same_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(monkeypatch, tmp_path)
    here, there = machines.copy("here"), machines.copy("there")
    past = Past(here.root)
    past.trial("0001", (0.1, 0.3), Outcome.FINISHED)
    past.trial("0002", (0.2,), None)
    past.folder.trial("0001").keep_weights(2, lambda path: (path / "w").write_text("w") and None)
    past.folder.extend(3)
    found = find_sweep(there.root)
    assert (found.name, sweep_names(there.root)) == ("s", ["s"])
    assert found.read() == past.folder.read()
    assert read_history(found.trial_folders()) == read_history(past.folder.trial_folders())
    assert found.command("resume") == f"ensweep resume s --storage {URI}"
    assert found.trial("0001").kept_epochs() == [2]
    assert not (found.trial("0001").weights_dir(2) / "w").exists()  # downloaded only when needed
    assert (found.trial("0001").require_weights(2) / "w").read_text() == "w"
    trial = trial_at(found.trial("0001").snapshot().weights_uri)
    assert trial.trial().trial == "0001"
    with pytest.raises(ConfigError, match=f"already exists: {URI}/s"):
        SweepFolder(there.root, "s").create(found.read())
    found.remove()
    assert machines.names() == []
    assert sweep_names(here.root) == []


def test_a_driver_lost_before_its_sweep_is_in_the_store_leaves_the_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(monkeypatch, tmp_path)
    lost, successor = machines.copy("dead"), machines.copy("successor")
    lost.claim(lost.root / "s")
    folder = SweepFolder(successor.root, "s")
    assert not folder.has_begun()
    assert machines.names() == []
    folder.create(sweep_of(tmp_path))
    assert folder.has_begun()
