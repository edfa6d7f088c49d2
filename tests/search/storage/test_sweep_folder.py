"""A sweep's folder is found by its name, or by its age; and what is said of a full disk."""

import os
from pathlib import Path

import pytest
from past_sweep import Past, sweep_of

from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome
from search.storage.sweep_folder import SweepFolder, find_sweep, shortage


def test_the_need_is_that_of_the_largest_trial_for_each_that_is_left(tmp_path: Path) -> None:
    past = Past(tmp_path)
    assert shortage(past.folder, 3).endswith("MB are free on the sweep's disk")
    for name, size in (("0001-b2", 10), ("0002", 2_000_000)):
        past.trial(name, (0.5,), Outcome.FINISHED)
        (past.folder.trial(name).path / "weights").write_bytes(bytes(size))
    assert shortage(past.folder, 3).endswith("; 3 trials that are left need about 6.0 MB")
    assert shortage(past.folder, 0).endswith("on the sweep's disk")


def test_a_sweep_that_is_not_there(tmp_path: Path) -> None:
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
