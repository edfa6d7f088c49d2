"""A loaded bundle predicts the average of its members."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lively import TASKS, vouch
from scipy.special import softmax

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


def outputs_one_by_one(
    ensemble: Ensemble, task: str, sentences: tuple[tuple[str, ...], ...]
) -> list[np.ndarray]:
    """Each member's raw outputs, of one example at a time and without padding."""
    bundle, outputs = ensemble.bundle, []
    for share in bundle.contents.tasks[task].members:
        folder = bundle.encoder_dir(share.member)
        model = load_member(bundle.weights_dir(share.member), folder, bundle.config(share.member))
        tokenizer, rows = load_tokenizer(folder), []
        for sides in zip(*sentences, strict=True):
            tokens = tokenise(sides, tokenizer, model.max_length)
            with torch.inference_mode():
                packed = tokens.pack(np.arange(len(sides)))
                output = model.answer(task, model.embed(packed), [1] * len(sides))
            rows.append(output.outputs.double().numpy()[0])
        outputs.append(np.array(rows))
    return outputs


@pytest.mark.parametrize("task", TASKS)
def test_outputs_equal_those_of_single_unpadded_examples(
    lively: Path, tiny_data: Path, task: str
) -> None:
    ensemble = Ensemble.load(lively, batch_size=5)
    record, shares = ensemble.tasks[task], ensemble.bundle.contents.tasks[task].members
    examples, _ = read_split(task, record, "dev", tiny_data)
    outputs = outputs_one_by_one(ensemble, task, examples.sentences)
    if record.kind is Kind.CLASSIFICATION:
        outputs = [softmax(of_member, axis=-1) for of_member in outputs]
    expected = np.average(outputs, axis=0, weights=[share.weight for share in shares])
    assert expected.std(axis=0).max() > 0.02  # some outputs depend on the sentence
    np.testing.assert_allclose(ensemble.outputs(task, examples.sentences), expected, atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_outputs_equal_the_predictions_recorded_in_training(
    ensemble: Ensemble, tiny_runs: Path, tiny_data: Path, task: str
) -> None:
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
def test_transforms_weights_and_intercept_of_the_bundle_are_applied(
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
    record = ensemble.tasks[task]
    sentences = tuple(zip(*PAIRS, strict=True))[: 1 + record.kind.is_pair]
    parsed = [
        Transform(**{**given, "averaged": Averaged(given["averaged"])}) for given in transforms
    ]
    raw = outputs_one_by_one(ensemble, task, sentences)
    expected = combine(record, raw, weights, parsed, intercept)
    actual = ensemble.outputs(task, sentences)
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    plain = Ensemble.load(lively).outputs(task, sentences)
    assert np.abs(actual - plain).max() > 1e-3


def test_columns_of_predictions(ensemble: Ensemble) -> None:
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


def test_the_task_may_be_omitted_if_only_one_fits(ensemble: Ensemble) -> None:
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
def test_invalid_sentences_are_refused(
    ensemble: Ensemble, task: str, sentences: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ensemble.predict(sentences, task=task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, must be at least 1"),
        ({"precision": "fp16"}, "precision is 'fp16', must be one of fp32, bf16, auto"),
    ],
)
def test_invalid_settings_are_refused(tiny_bundle: Path, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ensemble.load(tiny_bundle, **settings)


def test_invalid_weights_are_refused_when_they_are_loaded(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for path in (folder / MEMBERS).rglob(WEIGHTS):
        path.write_bytes(b"\x80\x04N.")
    vouch(folder)
    with pytest.raises(IntegrityError, match="weights cannot be loaded"):
        Ensemble.load(folder).predict("a film")
