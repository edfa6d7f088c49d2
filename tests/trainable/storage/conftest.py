"""A trial's folder, and a limit that makes every read fail."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from trial_records import RECORD, epoch_record, predictions, write_weights

from mlflow_setup.schema import Decision
from trainable.storage.trial_folder import TrialFolder


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    """A trial with three epochs, their predictions, and the weights of the first and last."""
    folder = TrialFolder(tmp_path / "t1")
    folder.create(RECORD)
    for epoch in (1, 2, 3):
        folder.write_predictions(epoch, [predictions(), predictions("mood")])
        folder.write_epoch(epoch_record(epoch))
        folder.write_decision(Decision(epoch, "continue", f"reason {epoch}"))
    for epoch in (1, 3):
        folder.keep_weights(epoch, write_weights)
    return folder


@pytest.fixture
def too_many_open_files() -> Callable[[], AbstractContextManager[None]]:
    """A context in which no file can be opened."""

    @contextmanager
    def limit() -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    return limit
