"""A loaded bundle gives what its members' dev predictions, averaged, give."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lively import TASKS, vouch

from ensemble.bundle.format import ENSEMBLE, MEMBERS, WEIGHTS
from ensemble.inference.ensemble import Ensemble
from ensemble.selection.combine import Averaged, Transform, combine
from mlflow_setup.errors import ConfigError, DataError, IntegrityError
from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.config.tasks import Kind
from trainable.data.readers import read_split
from trainable.model.multitask import load_member
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

PAIRS = [("how do i learn chess", "can i learn chess well"), ("a film", "the dull plot is slow")]


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_answered_as_each_alone_would_be(lively: Path, tiny_data: Path, task: str) -> None:
    """Against a textbook: one example at a time, no padding, the weighted mean of the members."""
    ensemble = Ensemble.load(lively, batch_size=5)
    bundle, record = ensemble.bundle, ensemble.tasks[task]
    examples, _ = read_split(task, record, "dev", tiny_data)
    expected = np.zeros((len(examples), record.num_outputs))
    for share in bundle.contents.tasks[task].members:
        folder = bundle.encoder_dir(share.member)
        model = load_member(bundle.weights_dir(share.member), folder, bundle.config(share.member))
        tokenizer = load_tokenizer(folder)
        for row, sides in enumerate(zip(*examples.sentences, strict=True)):
            tokens = tokenise(sides, tokenizer, model.max_length)
            with torch.inference_mode():
                packed = tokens.pack(np.arange(len(sides)))
                output = model.answer(task, model.embed(packed), [1] * len(sides))
            value = output.outputs.double().reshape(-1)
            if record.kind is Kind.CLASSIFICATION:
                value = value.softmax(0)
            expected[row] += share.weight * value.numpy()
    actual = ensemble.outputs(task, examples.sentences).reshape(expected.shape)
    assert expected.std(axis=0).max() > 0.02  # a class may be out of every answer's reach
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_serving_equals_what_was_selected(
    ensemble: Ensemble, tiny_runs: Path, tiny_data: Path, task: str
) -> None:
    """The same rows through the exported weights and through the recorded predictions."""
    contents = ensemble.bundle.contents
    entry = contents.tasks[task]
    recorded = []
    for share in entry.members:
        member = contents.members[share.member]
        folder = TrialFolder(tiny_runs / "tiny" / "trials" / member.trial)
        recorded.append(Predictions.read(folder.predictions_path(member.epoch), task))
    expected = combine(
        entry.task, [p.outputs for p in recorded], [share.weight for share in entry.members]
    )
    examples, _ = read_split(task, entry.task, "dev", tiny_data)
    assert examples.ids == recorded[0].ids
    actual = ensemble.outputs(task, examples.sentences)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "transforms", "intercept"),
    [
        ("sentiment", [{"averaged": "logits"}] * 2, None),
        ("paraphrase", [{"averaged": "probabilities"}] * 2, None),
        ("paraphrase", [{"averaged": "paper"}] * 2, [0.5]),
        ("sentiment", [{"averaged": "paper"}] * 2, [0.5, 0, -0.5, 0, 0.25]),
        (
            "similarity",
            [
                {"averaged": "standardised", "mean": m, "spread": 0.5, "to_mean": 2.5}
                for m in (0.25, 1)
            ],
            None,
        ),
    ],
)
def test_what_is_averaged_is_what_the_bundle_says(
    lively: Path, tmp_path: Path, task: str, transforms: list[Any], intercept: list[float] | None
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(lively, folder)
    content = json.loads((folder / ENSEMBLE).read_text())
    weights = [0.25, 0.75] if intercept is None else [-1.5, 2.0]
    entry = content["tasks"][task]
    for share, weight, transform in zip(entry["members"], weights, transforms, strict=True):
        share.update(weight=weight, transform=transform)
    entry["intercept"] = intercept
    (folder / ENSEMBLE).write_text(json.dumps(content))
    vouch(folder)
    ensemble = Ensemble.load(folder)
    bundle, record = ensemble.bundle, ensemble.tasks[task]
    rows = PAIRS if record.kind.is_pair else [(first,) for first, _ in PAIRS]
    raw = []
    for share in bundle.contents.tasks[task].members:
        encoder = bundle.encoder_dir(share.member)
        model = load_member(bundle.weights_dir(share.member), encoder, bundle.config(share.member))
        tokenizer, values = load_tokenizer(encoder), []
        for row in rows:
            tokens = tokenise(row, tokenizer, model.max_length)
            with torch.inference_mode():
                packed = tokens.pack(np.arange(len(row)))
                given = model.answer(task, model.embed(packed), [1] * len(row))
            values.append(given.outputs.double().numpy()[0])
        raw.append(np.array(values))
    parsed = [
        Transform(**{**given, "averaged": Averaged(given["averaged"])}) for given in transforms
    ]
    expected = combine(record, raw, weights, parsed, intercept)
    actual = ensemble.outputs(task, tuple(zip(*rows, strict=True)))
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    plain = Ensemble.load(lively).outputs(task, tuple(zip(*rows, strict=True)))
    assert np.abs(actual - plain).max() > 1e-3


def test_frames(ensemble: Ensemble) -> None:
    frame = ensemble.predict(["a warm film", "a dull plot"], task="sentiment")
    probabilities = [f"probability_{c}" for c in range(5)]
    assert list(frame.columns) == ["label", *probabilities]
    assert frame[probabilities].sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    best = frame[probabilities].to_numpy().argmax(axis=1)
    assert frame["label"].tolist() == best.tolist()
    assert frame["label"].dtype.kind == "i"
    frame = ensemble.predict(PAIRS, task="paraphrase")
    assert list(frame.columns) == ["label", "probability"]
    assert frame["label"].tolist() == (frame["probability"] > 0.5).astype(int).tolist()
    frame = ensemble.predict(PAIRS, task="similarity")
    assert list(frame.columns) == ["label"]
    assert frame["label"].between(-5.001, 5.001).all()


@pytest.mark.parametrize(
    "sentences",
    [
        PAIRS,
        [list(pair) for pair in PAIRS],
        tuple(PAIRS),
        iter(PAIRS),
        np.array(PAIRS),
        pd.DataFrame(PAIRS, columns=["sentence1", "sentence2"]),
        pd.DataFrame(
            [(b, 7, f" {a} ") for a, b in PAIRS], columns=["sentence2", "other", "sentence1"]
        ),
    ],
)
def test_pairs_in_any_form(ensemble: Ensemble, sentences: Any) -> None:
    expected = ensemble.predict(PAIRS, task="similarity")
    pd.testing.assert_frame_equal(ensemble.predict(sentences, task="similarity"), expected)


@pytest.mark.parametrize(
    "sentences", ["a warm film", ["a warm film"], ("a warm film",), pd.Series(["a warm film"])]
)
def test_sentences_in_any_form(ensemble: Ensemble, sentences: Any) -> None:
    expected = ensemble.predict([["a warm film"]], task="sentiment")
    pd.testing.assert_frame_equal(ensemble.predict(sentences), expected)


def test_the_task_may_be_left_out_where_one_fits(ensemble: Ensemble) -> None:
    pd.testing.assert_frame_equal(
        ensemble.predict("a warm film"), ensemble.predict("a warm film", task="sentiment")
    )
    with pytest.raises(ConfigError, match="paraphrase, similarity all take such sentences"):
        ensemble.predict(PAIRS)
    with pytest.raises(ConfigError, match="no task takes such sentences"):
        ensemble.predict(pd.DataFrame({"text": ["a"]}))
    with pytest.raises(ConfigError, match="no task 'mood'; this bundle has sentiment, paraphrase"):
        ensemble.predict("a film", task="mood")


@pytest.mark.parametrize(
    ("task", "sentences", "message"),
    [
        ("sentiment", [], "no sentences"),
        ("sentiment", "", "row 1: sentence is empty"),
        ("sentiment", ["a film", " \t "], "row 2: sentence is empty"),
        ("sentiment", ["a film", None], "row 2: sentence is None, not text"),
        ("sentiment", [5], "row 1: sentence is 5, not text"),
        ("sentiment", [{"sentence": "a"}], "row 1: sentence is {.*not text"),
        ("sentiment", [("a", "b")], r"row 1: 2 sentence\(s\), the task takes 1 \(sentence\)"),
        ("similarity", ["a film"], r"row 1: 1 sentence\(s\), the task takes 2 \(sentence1, se"),
        ("similarity", [("a", "b"), ("a", "")], "row 2: sentence2 is empty"),
        ("sentiment", pd.DataFrame({"text": ["a"]}), "no column sentence"),
        ("sentiment", pd.DataFrame({"sentence": [float("nan")]}), "row 1: sentence is nan, not"),
        ("sentiment", pd.DataFrame({"sentence": []}), "no sentences"),
    ],
)
def test_bad_input_is_named(ensemble: Ensemble, task: str, sentences: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ensemble.predict(sentences, task=task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, must be at least 1"),
        ({"precision": "fp16"}, "precision is 'fp16', must be one of fp32, bf16, auto"),
    ],
)
def test_bad_settings(tiny_bundle: Path, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ensemble.load(tiny_bundle, **settings)


def test_weights_that_do_not_fit_are_refused_when_they_are_needed(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for path in (folder / MEMBERS).rglob(WEIGHTS):
        path.write_bytes(b"\x80\x04N.")
    vouch(folder)
    with pytest.raises(IntegrityError, match="weights cannot be loaded"):
        Ensemble.load(folder).predict("a film")
