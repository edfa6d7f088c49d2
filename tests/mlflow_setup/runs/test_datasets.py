"""A run's dataset: folder and fingerprint."""

import json

import pytest

from mlflow_setup.runs.datasets import dataset_input


def test_the_dataset_of_a_trial() -> None:
    given = dataset_input("f00d", {"data.dir": "/home/me/reviews/", "data.tasks": ["sentiment"]})
    assert given is not None
    dataset = given.dataset
    assert (dataset.name, dataset.digest, dataset.source_type) == ("reviews", "f00d", "local")
    assert json.loads(dataset.source) == {"uri": "/home/me/reviews/"}
    assert json.loads(dataset.profile)["tasks"] == ["sentiment"]
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


@pytest.mark.parametrize(
    ("folder", "name", "source_type"),
    [("s3://key:secret@bucket/reviews", "reviews", "s3"), ("reviews", "reviews", "local")],
)
def test_names_and_source_types_of_datasets(folder: str, name: str, source_type: str) -> None:
    given = dataset_input("f" * 64, {"data.dir": folder})
    assert given is not None
    assert (given.dataset.name, given.dataset.source_type) == (name, source_type)
    assert len(given.dataset.digest) == 36
    assert "secret" not in given.dataset.source


@pytest.mark.parametrize(
    ("fingerprint", "folder"), [("unknown", "/data"), ("", "/data"), ("f", "")]
)
def test_an_unknown_fingerprint_or_folder_gives_no_dataset(fingerprint: str, folder: str) -> None:
    assert dataset_input(fingerprint, {"data.dir": folder}) is None
