"""What is refused before a sweep begins."""

import os
from pathlib import Path

import pytest
from past_sweep import sweep_of

from mlflow_setup.errors import ConfigError
from mlflow_setup.tracking.store import resolve_tracking
from search.planning.preflight import refuse_taken
from search.storage import lease
from search.storage.lease import Lease
from search.storage.sweep_folder import SweepFolder


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
