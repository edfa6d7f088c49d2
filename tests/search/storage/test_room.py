"""What is said of a full disk."""

from pathlib import Path

from past_sweep import Past

from mlflow_setup.schema import Outcome
from search.storage.room import shortage


def test_the_need_is_that_of_the_largest_trial_for_each_that_is_left(tmp_path: Path) -> None:
    past = Past(tmp_path)
    assert shortage(past.folder, 3).endswith("MB are free on the sweep's disk")
    for name, size in (("0001-b2", 10), ("0002", 2_000_000)):
        past.trial(name, (0.5,), Outcome.FINISHED)
        (past.folder.trial(name).path / "weights").write_bytes(bytes(size))
    assert shortage(past.folder, 3).endswith("; 3 trials that are left need about 6.0 MB")
    assert shortage(past.folder, 0).endswith("on the sweep's disk")
