"""Reading a trial's data: subsampling, skipping, fingerprints; the generated sample."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mlflow_setup.errors import ConfigError, DataError
from trainable.config.recipe import resolve
from trainable.config.tasks import PAPER_TASKS
from trainable.data.dataset import read_dataset, read_directory
from trainable.data.readers import read_split
from trainable.data.synthetic import NUM_DEV, NUM_TRAIN, write_sample


def _dataset(data: Path, *overrides: str):  # type: ignore[no-untyped-def]
    return read_dataset(resolve("b3", [f"data.dir={data}", *overrides], {}).config)


def test_subsampling_is_seeded_and_keeps_the_order(tiny_data: Path) -> None:
    whole = _dataset(tiny_data)
    half = _dataset(tiny_data, "data.train_fraction=0.5")
    again = _dataset(tiny_data, "data.train_fraction=0.5")
    other = _dataset(tiny_data, "data.train_fraction=0.5", "seed=1")
    few = _dataset(tiny_data, "data.max_train_examples=5")
    for name in whole.tasks:
        all_ids = list(whole.train[name].ids)
        ids = half.train[name].ids
        assert len(ids) == 24
        assert sorted(ids, key=all_ids.index) == list(ids)
        assert again.train[name].ids == ids
        assert other.train[name].ids != ids
        assert len(few.train[name]) == 5
        assert half.dev[name].ids == whole.dev[name].ids


def test_fingerprints_depend_on_the_data(tiny_data: Path) -> None:
    whole = _dataset(tiny_data)
    assert whole.fingerprint == _dataset(tiny_data).fingerprint
    assert whole.fingerprint != _dataset(tiny_data, "data.train_fraction=0.5").fingerprint
    examples = whole.dev["sentiment"]
    assert examples.take(range(len(examples))).fingerprint == examples.fingerprint
    assert examples.take([1, 0]).fingerprint != examples.take([0, 1]).fingerprint


def test_entailment_has_no_dev_set_and_keeps_its_third_sentences(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", num_train=5, num_dev=5)
    config = resolve("b1", [f"data.dir={tmp_path / 's'}"], {}).config
    dataset = read_dataset(config)
    assert set(dataset.dev) == {"sentiment", "paraphrase", "similarity"}
    contradictions = dataset.train["nli"].contradictions
    assert contradictions is not None
    assert {bool(text) for text in contradictions} == {True, False}


def test_the_first_20_errors_are_listed_and_skipped_rows_counted(
    tiny_data: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    path = data / "sts-train.csv"
    path.write_text(path.read_text() + "".join(f"9\tx{i}\ta\tb\t9\n" for i in range(30)))
    with pytest.raises(DataError, match=r"30 error\(s\)") as caught:
        _dataset(data)
    assert "and 10 more" in str(caught.value)
    assert _dataset(data, "data.on_bad_rows=skip").skipped == {"sts-train.csv D08": 30}


def test_a_file_that_cannot_be_read_is_an_error_even_with_skip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        _dataset(tmp_path, "data.on_bad_rows=skip")


def test_the_sample_is_seeded_valid_and_labelled_as_generated(tmp_path: Path) -> None:
    write_sample(tmp_path / "a")
    write_sample(tmp_path / "b")
    write_sample(tmp_path / "c", seed=1)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 11
    for name in names:
        one, two, other = ((tmp_path / f / name).read_bytes() for f in "abc")
        assert one == two != other
    assert "generated" in (tmp_path / "a" / "README.txt").read_text()
    parts, defects = read_directory(tmp_path / "a", PAPER_TASKS)
    assert defects == []
    rows = {part.split: len(part) for part in parts if part.task_name == "paraphrase"}
    assert rows == {"train": NUM_TRAIN, "dev": NUM_DEV, "test": 60}
    examples, _ = read_split("sentiment", PAPER_TASKS["sentiment"], "train", tmp_path / "a")
    assert examples.labels is not None
    shares = np.bincount(examples.labels.astype(int)) / len(examples)
    assert shares.min() > 0.08
    assert all(id_.startswith("sample-") for id_ in examples.ids)
    with pytest.raises(ConfigError, match="is there already"):
        write_sample(tmp_path / "a")


@pytest.mark.parametrize(
    ("task", "file", "label", "message"),
    [
        ("similarity", "sts-dev.csv", "2.5", "all 32 labels are 2.5"),
        ("sentiment", "ids-sst-train.csv", "3", "all 48 labels are 3"),
        ("paraphrase", "quora-dev.csv", "1.0", "all 32 labels are 1"),
    ],
)
def test_constant_labels_are_a_warning(
    task: str, file: str, label: str, message: str, tiny_data: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny_data, tmp_path / "data")) / file
    header, *rows = path.read_text().splitlines()
    rows = [row.rpartition("\t")[0] + f"\t{label}" for row in rows]
    path.write_text("\n".join([header, *rows]) + "\n")
    found = [d for d in read_directory(tmp_path / "data", PAPER_TASKS)[1] if d.code == "D26"]
    assert [(d.severity, d.file, d.message) for d in found] == [("warning", file, message)]
    assert not [d for d in read_directory(tiny_data, PAPER_TASKS)[1] if d.code in ("D26", "D27")]


def test_a_dev_set_with_fewer_rows_than_an_ensembles_limit_is_reported(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", num_train=30, num_dev=19)
    found = [d for d in read_directory(tmp_path / "s", PAPER_TASKS)[1] if d.code == "D27"]
    assert [d.file for d in found] == ["ids-sst-dev.csv", "quora-dev.csv", "sts-dev.csv"]
    assert "19 rows: an ensemble may have as many members" in str(found[0])


def test_a_missing_data_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"dta: there is no such folder \(did you mean data\?\)"):
        read_dataset(resolve("b3", [f"data.dir={tmp_path / 'dta'}"]).config)
