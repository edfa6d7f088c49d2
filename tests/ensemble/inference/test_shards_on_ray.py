"""Shards labelled by the workers of a local Ray."""

import shutil
from pathlib import Path

import pytest

from ensemble.inference.ensemble import Ensemble
from ensemble.inference.shards import write_shards
from ensemble.inference.shards_on_ray import label_on_ray
from mlflow_setup.errors import IntegrityError

TASKS = ["paraphrase", "similarity"]


@pytest.mark.slow
def test_workers_write_the_labels_of_one_process(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, one_ray: None
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    ensemble, source = Ensemble.load(folder), tiny_data / "quora-dev.csv"
    label = label_on_ray(ensemble, TASKS, as_json=False)
    spread, alone = tmp_path / "spread", tmp_path / "alone"
    assert write_shards(ensemble, source, TASKS, spread, 5, label=label) == (7, 0)
    write_shards(ensemble, source, TASKS, alone, 5)
    for path in alone.glob("labels-*"):
        assert (spread / path.name).read_text() == path.read_text()
    (folder / "README.md").write_text("better")  # an error of a worker reaches the user
    with pytest.raises(IntegrityError, match=r"changed since it was written: README\.md"):
        write_shards(ensemble, source, TASKS, tmp_path / "other", 5, label=label)
