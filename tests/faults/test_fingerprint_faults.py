"""R23: runs whose predictions were made with another tokenizer or other data are refused.

In one epoch of one run, the predictions are replaced by a valid file that a model with another
tokenizer, maximum length, order of labels or version of the data would have written.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ensemble.candidates.pool import load_pool
from mlflow_setup.runs.query import download, find_trials
from mlflow_setup.schema import PREDICTIONS_ARTIFACT, prediction_path
from mlflow_setup.tracking.store import Tracking
from trainable.batches.tokenization import load_tokenizer, tokenizer_fingerprint
from trainable.config.tasks import PAPER_TASKS
from trainable.data.examples import Examples
from trainable.data.readers import read_split
from trainable.storage.predictions import Predictions, read_predictions, write_predictions

TASK = "sentiment"

Other = Callable[[Predictions, Path, Path, Path], Predictions]


def other_vocabulary(found: Predictions, encoder: Path, data: Path, work: Path) -> Predictions:
    folder = shutil.copytree(encoder, work / "encoder")
    rules = json.loads((folder / "tokenizer.json").read_text())
    words = rules["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    return _with_tokenizer(found, folder, _max_length(found, encoder))


def other_rules(found: Predictions, encoder: Path, data: Path, work: Path) -> Predictions:
    folder = shutil.copytree(encoder, work / "encoder")
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    return _with_tokenizer(found, folder, _max_length(found, encoder))


def other_length(found: Predictions, encoder: Path, data: Path, work: Path) -> Predictions:
    return _with_tokenizer(found, encoder, _max_length(found, encoder) + 1)


def other_label_order(found: Predictions, encoder: Path, data: Path, work: Path) -> Predictions:
    examples = _examples(found, data)
    assert examples.labels is not None
    return _with_data_of(found, dataclasses.replace(examples, labels=4 - examples.labels))


def other_text(found: Predictions, encoder: Path, data: Path, work: Path) -> Predictions:
    examples = _examples(found, data)
    (side,) = examples.sentences
    return _with_data_of(
        found, dataclasses.replace(examples, sentences=((f"{side[0]} .", *side[1:]),))
    )


def other_rows(found: Predictions, encoder: Path, data: Path, work: Path) -> Predictions:
    """A version of the data with one row fewer."""
    rows = np.arange(1, len(found.ids))
    assert found.labels is not None
    fewer = dataclasses.replace(
        found, ids=found.ids[1:], outputs=found.outputs[1:], labels=found.labels[1:]
    )
    return _with_data_of(fewer, _examples(found, data).take(rows))


@pytest.mark.promise(
    "R23",
    "predictions made with another tokenizer, length, order of labels or version of the data",
    "the run is refused by its fingerprint",
)
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (other_vocabulary, "predictions for other data: tokenizer is"),
        (other_rules, "predictions for other data: tokenizer is"),
        (other_length, "predictions for other data: tokenizer is"),
        (other_label_order, f"{TASK}, epoch 2: data "),
        (other_text, f"{TASK}, epoch 2: data "),
        (other_rows, f"{TASK}, epoch 2: data "),
    ],
)
def test_r23_a_run_with_other_predictions_is_refused(
    tiny_runs: Path, tiny_encoder: Path, tiny_data: Path, tmp_path: Path, other: Other, reason: str
) -> None:
    tracking = Tracking(f"sqlite:///{tiny_runs / 'mlflow.db'}")
    first, second = find_trials(tracking, "tiny")
    artifact = f"{PREDICTIONS_ARTIFACT}/{prediction_path(2)}"
    written = tmp_path / "0002.parquet"

    def fetch(run_id: str, path: str) -> Path:
        if (run_id, path) == (second.run_id, artifact) and written.exists():
            return written
        return download(tracking, run_id, path, tmp_path / "cache")

    assert not load_pool([first, second], fetch).rejected
    found = read_predictions(fetch(second.run_id, artifact))
    changed = other(found[TASK], tiny_encoder, tiny_data, tmp_path)
    write_predictions(written, list({**found, TASK: changed}.values()))
    pool = load_pool([first, second], fetch)
    (rejected,) = pool.rejected
    assert rejected.run_id == second.run_id
    assert reason in rejected.reason
    assert {candidate.run_id for candidate in pool.candidates} == {first.run_id}


def _with_tokenizer(found: Predictions, encoder: Path, max_length: int) -> Predictions:
    tokenizer = tokenizer_fingerprint(load_tokenizer(encoder), max_length)
    return dataclasses.replace(found, tokenizer=tokenizer)


def _max_length(found: Predictions, encoder: Path) -> int:
    """The maximum length that is part of the run's fingerprint."""
    tokenizer = load_tokenizer(encoder)
    for length in range(1, 513):
        if tokenizer_fingerprint(tokenizer, length) == found.tokenizer:
            return length
    raise AssertionError("no length matches the fingerprint")


def _examples(found: Predictions, data: Path) -> Examples:
    examples, _ = read_split(TASK, PAPER_TASKS[TASK], "dev", data)
    assert examples.fingerprint == found.data_fingerprint
    return examples


def _with_data_of(found: Predictions, examples: Examples) -> Predictions:
    return dataclasses.replace(found, data_fingerprint=examples.fingerprint, labels=examples.labels)
