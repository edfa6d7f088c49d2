"""Scores of a bundle on labelled files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from lively import TASKS

from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import DataError
from trainable.data.readers import read_split


def test_evaluate(ensemble: Ensemble, tiny_data: Path) -> None:
    found = ensemble.evaluate(tiny_data)
    assert list(found.scores) == TASKS
    assert found.num_rows == dict.fromkeys(TASKS, 32)
    assert found.num_skipped == dict.fromkeys(TASKS, 0)
    assert found.unscored == {}
    sentiment, paraphrase, similarity = found.scores.values()
    assert found.overall == pytest.approx(np.mean([sentiment, paraphrase, (similarity + 1) / 2]))
    task = ensemble.tasks["sentiment"]
    examples, _ = read_split("sentiment", task, "dev", tiny_data)
    labels = ensemble.predict(examples.sentences[0], task="sentiment")["label"]
    assert sentiment == pytest.approx(float((labels == examples.labels).mean()))


def test_files_that_cannot_be_scored_are_reported(
    ensemble: Ensemble, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"nothing to score: sentiment: ids-sst-dev.csv does not e"):
        ensemble.evaluate(tmp_path)
    with pytest.raises(DataError, match=r"ids-sst-test-student.csv has no labelled rows"):
        ensemble.evaluate(tiny_data, "test")
    shutil.copy(tiny_data / "sts-dev.csv", tmp_path)
    found = ensemble.evaluate(tmp_path)
    assert list(found.scores) == ["similarity"]
    assert found.overall == pytest.approx((found.scores["similarity"] + 1) / 2)
    assert found.unscored == {
        "sentiment": "ids-sst-dev.csv does not exist",
        "paraphrase": "quora-dev.csv does not exist",
    }


def test_invalid_rows_are_errors_or_skipped_and_counted(
    ensemble: Ensemble, tiny_data: Path, tmp_path: Path
) -> None:
    lines = (tiny_data / "ids-sst-dev.csv").read_text().splitlines()
    lines[3] = "\t".join([*lines[3].split("\t")[:-2], "", "9"])  # two defects, one row
    (tmp_path / "ids-sst-dev.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"(?s)ids-sst-dev.csv:4: .*--on-bad-rows skip"):
        ensemble.evaluate(tmp_path)
    found = ensemble.evaluate(tmp_path, skip_bad_rows=True)
    assert (found.num_rows, found.num_skipped) == ({"sentiment": 31}, {"sentiment": 1})
    (tmp_path / "ids-sst-dev.csv").write_text("id\ttext\tsentiment\n1\ta\t2\n")
    with pytest.raises(DataError, match="no column sentence"):
        ensemble.evaluate(tmp_path, skip_bad_rows=True)
