"""What is only a help: where nothing can be kept, the work goes on and says so once."""

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

CLOSED = "/proc/self/task/none"
"""Not even root makes anything there."""


@pytest.fixture
def _closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSWEEP_CACHE", CLOSED)
    cache._warn_once.cache_clear()


@pytest.mark.usefixtures("_closed")
def test_a_trial_goes_on_without_a_cache(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tokens and embeddings of a probe are made, not kept."""
    stages = ["train.stages=[probe, finetune]", "probe.num_epochs=1", "train.num_epochs=1"]
    config = config_of(tiny_encoder, tiny_data, *stages)
    with caplog.at_level(logging.WARNING):
        assert run(config, tmp_path / "trial", tmp_path / "shared").outcome is Outcome.FINISHED
    said = [record.message for record in caplog.records if "cannot write" in record.message]
    assert len(said) == 1
    assert CLOSED in said[0]
    assert "ENSWEEP_CACHE" in said[0]


@pytest.mark.usefixtures("_closed")
def test_what_needs_a_place_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no local copy can be made") as caught:
        fetched(tmp_path.as_uri())
    assert "ENSWEEP_CACHE" in str(caught.value)


def test_what_can_be_kept_is_kept_and_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path))
    path = cache_folder() / "below" / "file"
    with exclusive_if_writable(path, never_stop):
        write_cached(path, "content")
    assert path.read_text() == "content"
    assert (tmp_path / "below" / "file.lock").exists()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ENSWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder().mkdir(parents=True)
