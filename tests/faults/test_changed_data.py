"""Data files that change during a sweep: all its trials are trained on the same data."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from drivers import assert_whole
from patience import PATIENCE
from real_sweep import end, ensweep, sweep_file, wait_for_epochs
from stores import URI

from mlflow_setup.filesystem.object_store import ObjectStore
from search.storage.sweep_folder import SweepFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("test_trainable.py stops for them, test_run.py has `resume` refuse"),
]

FILE = "ids-sst-train.csv"


class Data:
    """A data folder on disk, or its copy in an object store."""

    def __init__(self, folder: Path, *, is_stored: bool) -> None:
        self.store = ObjectStore(URI) if is_stored else None
        self.folder, self.uri = folder, URI if is_stored else str(folder)
        self.original = (folder / FILE).read_bytes()
        for path in folder.iterdir():
            self._put(path)

    def write(self, content: bytes) -> None:
        """Replace the file, and empty the cache of fetched files."""
        (self.folder / FILE).write_bytes(content)
        self._put(self.folder / FILE)
        shutil.rmtree(Path(os.environ["ENSWEEP_CACHE"]) / "fetched", ignore_errors=True)

    def _put(self, path: Path) -> None:
        if self.store is not None:
            self.store.put(path.name, path)


@pytest.mark.promise(
    "R23",
    "data files change during a sweep (tiny BERT), in a folder, in an S3 store",
    "it stops (exit 75) and names the file, `resume` and `extend` refuse; once the old files "
    "are back it is whole, with all trials on the same data",
)
@pytest.mark.parametrize("is_stored", [False, True])
def test_r23_changed_data_stop_the_sweep(
    tmp_path: Path, tiny_encoder: Path, tiny_data: Path, s3: dict[str, str], is_stored: bool
) -> None:
    data = Data(Path(shutil.copytree(tiny_data, tmp_path / "data")), is_stored=is_stored)
    file = sweep_file(tmp_path, tiny_encoder, tiny_data)
    sweep = yaml.safe_load(file.read_text())
    sweep["config"]["data.dir"] = data.uri
    sweep["resources"]["max_concurrent_trials"] = 1
    file.write_text(yaml.safe_dump(sweep))
    options = ("--storage", str(tmp_path / "runs"))
    driver = ensweep("sweep", str(file), "--name", "s", *options)
    wait_for_epochs(tmp_path, 1, driver)
    data.write(data.original + b"x\tnew\ta film\t1\n")
    text = driver.communicate(timeout=PATIENCE)[0]
    assert driver.returncode == 75, text
    problem = f"changed since the sweep began: {data.uri}/{FILE}"
    assert problem in text
    for words in (["resume", "s"], ["extend", "s", "--num-samples", "1"]):
        refused = ensweep(*words, *options)
        text = refused.communicate(timeout=PATIENCE)[0]
        assert refused.returncode == 3, text
        assert problem in text
    data.write(data.original)
    end(ensweep("resume", "s", *options))
    assert_whole(tmp_path, 3, num_epochs=6, is_pretended=False)
    trials = SweepFolder(tmp_path / "runs", "s").trial_folders()
    assert len({trial.trial().data_fingerprint for trial in trials}) == 1
