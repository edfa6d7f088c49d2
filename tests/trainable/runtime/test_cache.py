"""The cache is optional: if it cannot be written, work continues with one warning."""

import logging
from pathlib import Path

import pytest
from tiny_trials import config_of, run

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.schema import Outcome
from trainable.data.remote import fetched
from trainable.runtime import cache
from trainable.runtime.cache import exclusive_if_writable, write_cached
from trainable.runtime.stopping import never_stop

UNWRITABLE = "/proc/self/task/none"
"""Even root cannot create it."""


@pytest.fixture
def _unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSWEEP_CACHE", UNWRITABLE)
    cache._warn_once.cache_clear()


@pytest.mark.usefixtures("_unwritable")
def test_a_trial_runs_without_a_cache(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither tokens nor embeddings can be stored."""
    stages = ["train.stages=[probe, finetune]", "probe.num_epochs=1", "train.num_epochs=1"]
    config = config_of(tiny_encoder, tiny_data, *stages)
    with caplog.at_level(logging.WARNING):
        assert run(config, tmp_path / "trial", tmp_path / "shared").outcome is Outcome.FINISHED
    (warning,) = [text for text in caplog.messages if "cannot write" in text]
    assert UNWRITABLE in warning
    assert "ENSWEEP_CACHE" in warning


@pytest.mark.usefixtures("_unwritable")
def test_a_remote_folder_without_a_cache_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no local copy can be made") as caught:
        fetched(tmp_path.as_uri())
    assert "ENSWEEP_CACHE" in str(caught.value)


def test_a_file_is_cached_under_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path))
    path = cache_folder() / "below" / "file"
    with exclusive_if_writable(path, never_stop):
        write_cached(path, "content")
    assert path.read_text() == "content"
    assert (tmp_path / "below" / "file.lock").exists()


def test_the_cache_of_a_user_without_a_home_cannot_be_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ENSWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder().mkdir(parents=True)
