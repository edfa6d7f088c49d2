"""The recorded inputs of a sweep: reading changed data or encoders is an error."""

import shutil
from pathlib import Path

import pytest

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.object_store import Version
from trainable.config.parse import from_flat
from trainable.data.dataset import read_dataset
from trainable.data.inputs import (
    ChangedInputError,
    Inputs,
    Source,
    expecting,
    inputs_from_json,
)

SOURCE = Source("/d", "a.csv", "sentiment train 1")


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line)


@pytest.mark.parametrize("subsample", [{}, {"data.train_fraction": 0.5, "seed": 3}])
def test_changed_examples_are_refused(data: Path, subsample: dict[str, object]) -> None:
    recorded = read_dataset(from_flat({"data.dir": str(data)})).sources
    config = from_flat({"data.dir": str(data), **subsample})
    with expecting(Inputs(recorded)):
        assert read_dataset(config).sources == recorded
        append(data / "quora-train.csv", "\n")  # an empty line is no example
        read_dataset(config)
        append(data / "ids-sst-train.csv", "x\tnew\ta film\t1\n")
        with pytest.raises(
            ChangedInputError, match=rf"began: {data}/ids-sst-train.csv\nfix: restore"
        ):
            read_dataset(config)
        read_dataset(from_flat({"data.dir": str(data), "data.tasks": ["paraphrase"]}))
    read_dataset(config)  # outside of the sweep


def test_inputs_are_restored_from_json() -> None:
    folders = {"s3://b/d": {"a.csv": Version(3, "x"), "deep/b": Version(0, "y")}}
    inputs = Inputs({SOURCE: "1f"}, folders)
    assert inputs_from_json(inputs.to_json()) == inputs


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "examples": 3}', "[" * 9999],
)
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        inputs_from_json(text)


def test_data_are_compared_by_content_and_encoders_by_version() -> None:
    old, new = {"f": Version(1, "old")}, {"f": Version(1, "new")}
    data = Source("s3://b/data", "a.csv", "sentiment train 1")
    began = Inputs({data: "1f"}, {"s3://b/data": old, "s3://b/bert": old})
    assert began.changes(began) == []
    assert began.changes(Inputs({data: "1f"}, {"s3://b/data": new})) == []  # same content
    assert began.changes(Inputs({data: "2f"}, {"s3://b/data": new})) == ["s3://b/data/a.csv"]
    assert began.changes(Inputs({data: "1f"}, {"s3://b/bert": new})) == ["s3://b/bert"]
    assert began.changes(Inputs({SOURCE: "2f"}, {"s3://b/other": new})) == []


def test_inputs_can_be_added_and_relocated() -> None:
    old, new = {"f": Version(1, "old")}, {"f": Version(1, "new")}
    began = Inputs({SOURCE: "1f"}, {"s3://b/d": old})
    more = began.with_more(Inputs({SOURCE._replace(file="b"): "2f"}, {"s3://b/d": new}))
    assert more.examples == {SOURCE: "1f", SOURCE._replace(file="b"): "2f"}
    assert more.folders == {"s3://b/d": new}
    moved = began.relocated(lambda place: place.replace("/d", "/e"))
    assert moved.examples == {SOURCE._replace(data_dir="/e"): "1f"}
