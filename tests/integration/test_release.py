"""R24: what a release has written is read; what another has written is refused by its number."""

import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from write_release import NUM_EPOCHS, STOPPED, write_release

from ensemble.bundle.format import SCHEMA_VERSION as BUNDLE_VERSION
from ensemble.bundle.format import Bundle
from ensemble.choice.request import Request, choose_ensemble
from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import SCHEMA_VERSION, Identity, Outcome
from mlflow_setup.tracking.store import resolve_tracking
from search.storage.history import read_history, write_history
from search.storage.sweep_folder import SWEEP_FILE, SweepFolder
from trainable.config.parse import from_flat
from trainable.storage.checkpoint import load_newest
from trainable.storage.predictions import VERSION, Predictions
from trainable.training.train import train

ARCHIVE = Path(__file__).resolve().parents[1] / "data" / "release.tar.xz"


@pytest.fixture
def release(tmp_path: Path, tiny_encoder: Path, tiny_data: Path) -> Path:
    """The folder with `runs` and `bundle` as they were written, in another place."""
    if os.environ.get("ENSWEEP_WRITE_RELEASE"):
        ARCHIVE.parent.mkdir(exist_ok=True)
        write_release(tmp_path / "new", tiny_encoder, tiny_data, ARCHIVE)
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(tmp_path / "elsewhere", filter="data")
    return tmp_path / "elsewhere"


def test_what_this_release_has_written_is_read(release: Path) -> None:
    storage = release / "runs"
    folder = SweepFolder(storage, "s")
    assert folder.read().search.num_samples == 2
    done, stopped = read_history(folder.trial_folders())
    assert (done.outcome.outcome, len(done.epochs)) == (Outcome.FINISHED, NUM_EPOCHS)  # type: ignore[union-attr]
    assert (stopped.name, stopped.is_over, len(stopped.epochs)) == (STOPPED, False, 1)
    tracking = resolve_tracking(storage)
    assert [run.trial for run in find_trials(tracking, "s")] == ["0001", STOPPED]
    _, choice = choose_ensemble(tracking, Request(("s",), rule="simple"), storage / ".cache")
    assert set(choice.tasks) == {"sentiment", "paraphrase", "similarity"}
    labels = Ensemble.load(release / "bundle").predict(["a good film"], task="sentiment")
    assert labels["label"].between(0, 4).all()


def test_a_checkpoint_of_this_release_goes_on(release: Path) -> None:
    """With the paths of the place where the folder lies now."""
    torch.set_num_threads(1)
    folder = SweepFolder(release / "runs", "s")
    history = read_history(folder.trial_folders())
    write_history(folder, history)
    stopped, trial = history[1], folder.trial(STOPPED)
    assert load_newest(trial.checkpoint_dir) is not None
    record = stopped.record
    identity = Identity(record.trial, record.sweep, record.recipe, {}, record.searched)
    ended = train(from_flat(record.config), trial.path, identity=identity)
    assert (ended.outcome, len(trial.epochs())) == (Outcome.FINISHED, NUM_EPOCHS)


def test_another_schemas_number_is_refused(release: Path) -> None:
    """Exit 6, the number, and what to do; for older ones and for newer ones."""
    sweep = SweepFolder(release / "runs", "s")
    trial = sweep.trial("0001")
    files = {
        sweep.path / SWEEP_FILE: (SCHEMA_VERSION, sweep.read),
        trial.path / "config.json": (SCHEMA_VERSION, trial.trial),
        release / "bundle" / MANIFEST: (BUNDLE_VERSION, lambda: Bundle.load(release / "bundle")),
    }
    for path, (known, read) in files.items():
        whole = path.read_text()
        content = json.loads(whole)
        assert content["schema_version"] == known
        for number in (known - 1, known + 1):
            path.write_text(json.dumps({**content, "schema_version": number}))
            with pytest.raises(IntegrityError) as caught:
                read()
            assert caught.value.exit_code == 6
            expected = f"version is {number}, of another release, and this one reads {known}"
            assert expected in caught.value.problem
            assert "create it again" in caught.value.problem
        path.write_text(whole)
        read()


def test_predictions_have_the_number_of_this_release(release: Path) -> None:
    """Else they are refused: see the tests of prediction files."""
    path = next((release / "runs" / "s" / "trials").glob("*/predictions/0001.parquet"))
    assert Predictions.read(path, "sentiment").split == "dev"
    assert VERSION == 2
