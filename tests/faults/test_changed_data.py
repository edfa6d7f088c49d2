"""Data that are written anew while a sweep runs: all its trials are trained on the same ones."""

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
SAID = "changed since the sweep began: "


class Data:
    """Data in a folder, or at a URI of a store."""

    def __init__(self, folder: Path, *, is_stored: bool) -> None:
        self.store = ObjectStore(URI) if is_stored else None
        self.folder, self.place = folder, URI if is_stored else str(folder)
        self.first = (folder / FILE).read_bytes()
        for path in folder.iterdir():
            self._put(path)

    def write(self, content: bytes) -> None:
        """Write the file anew. What this machine has fetched is gone, as on another machine."""
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
def test_data_that_change_in_the_middle_stop_the_sweep(
    tmp_path: Path, tiny_encoder: Path, tiny_data: Path, s3: dict[str, str], is_stored: bool
) -> None:
    data = Data(Path(shutil.copytree(tiny_data, tmp_path / "data")), is_stored=is_stored)
    file = sweep_file(tmp_path, tiny_encoder, tiny_data)
    sweep = yaml.safe_load(file.read_text())
    sweep["config"]["data.dir"] = data.place
    sweep["resources"]["max_concurrent_trials"] = 1
    file.write_text(yaml.safe_dump(sweep))
    place = ("--storage", str(tmp_path / "runs"))
    driver = ensweep("sweep", str(file), "--name", "s", *place)
    wait_for_epochs(tmp_path, 1, driver)
    data.write(data.first + b"x\tnew\ta film\t1\n")
    text = driver.communicate(timeout=PATIENCE)[0]
    assert driver.returncode == 75, text
    named = f"{SAID}{data.place}/{FILE}"
    assert named in text
    for words in (["resume", "s"], ["extend", "s", "--num-samples", "1"]):
        refused = ensweep(*words, *place)
        text = refused.communicate(timeout=PATIENCE)[0]
        assert refused.returncode == 3, text
        assert named in text
    data.write(data.first)
    end(ensweep("resume", "s", *place))
    assert_whole(tmp_path, 3, num_epochs=6, is_pretended=False)
    trials = SweepFolder(tmp_path / "runs", "s").trial_folders()
    assert len({trial.trial().data_fingerprint for trial in trials}) == 1
