"""A loaded bundle gives what its members' dev predictions, averaged, give."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ensemble.bundle.format import ENCODERS, ENSEMBLE, FACTS, MAIN, MEMBERS, WEIGHTS, Bundle
from ensemble.inference.ensemble import Ensemble
from ensemble.selection.combine import Averaged, Transform, combine
from mlflow_setup.errors import ConfigError, DataError, IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest
from trainable.batches.packing import Packed
from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.config.tasks import Kind
from trainable.data.readers import read_split
from trainable.evaluation import evaluate
from trainable.model.multitask import MultitaskBert, load_member
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

TASKS = ["sentiment", "paraphrase", "similarity"]
PAIRS = [("how do i learn chess", "can i learn chess well"), ("a film", "the dull plot is slow")]


@pytest.fixture(scope="module")
def ensemble(tiny_bundle: Path) -> Ensemble:
    return Ensemble.load(tiny_bundle)


@pytest.fixture(scope="module")
def lively(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with weights that tell sentences apart, and two members for every task."""
    folder = tmp_path_factory.mktemp("lively") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    content = json.loads((folder / ENSEMBLE).read_text())
    members = sorted(content["members"])
    for entry in content["tasks"].values():
        entry["members"] = [
            {"member": member, "weight": weight}
            for member, weight in zip(members, (0.25, 0.75), strict=True)
        ]
    (folder / ENSEMBLE).write_text(json.dumps(content))
    for number, path in enumerate(sorted(folder.rglob(WEIGHTS))):
        draw = np.random.default_rng(number)
        state = load_file(path)
        for name, value in state.items():
            if value.ndim == 2:
                state[name] = draw.standard_normal(value.shape).astype(np.float32)
        save_file(state, path)
    vouch(folder)
    return folder


def vouch(folder: Path) -> None:
    """Make the manifest fit what the folder holds now."""
    (folder / MANIFEST).unlink()
    write_manifest(folder, FACTS)


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


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sentences each pass of an encoder has embedded."""
    sizes: list[int] = []
    true_embed = MultitaskBert.embed

    def counted(self: MultitaskBert, packed: Packed) -> torch.Tensor:
        sizes.append(len(packed.lengths))
        return true_embed(self, packed)

    monkeypatch.setattr(MultitaskBert, "embed", counted)
    return sizes


def mixed(num_rows: int) -> pd.DataFrame:
    """Rows for all three tasks, of which some have sentences in common."""
    words = ["a warm film", "the dull plot is slow", "how do i learn chess", "chess", "not a film"]
    pick = [words[(3 * row + row // 5) % 5] for row in range(2 * num_rows)]
    columns = {"sentence": pick[:num_rows], "sentence1": pick[1 : num_rows + 1]}
    return pd.DataFrame(columns | {"sentence2": pick[num_rows:]})


def test_each_encoder_runs_once_for_a_sentence_whatever_the_tasks(
    lively: Path, embedded: list[int]
) -> None:
    Ensemble.load(lively, batch_size=2).label(mixed(40), TASKS)
    assert embedded == [2, 2, 1] * 2  # five distinct sentences, two members


def test_members_on_an_equal_encoder_run_it_once(
    lively: Path, tmp_path: Path, embedded: list[int]
) -> None:
    folder = shutil.copytree(lively, tmp_path / "bundle")
    (other,) = (folder / ENCODERS).iterdir()
    shutil.copy(folder / WEIGHTS, other / WEIGHTS)
    vouch(folder)
    actual = Ensemble.load(folder).label(mixed(10), TASKS)
    assert embedded == [5]
    pd.testing.assert_frame_equal(actual, one_by_one(folder, mixed(10)), atol=1e-3, rtol=0)


def test_the_folder_is_one_that_transformers_loads(tiny_bundle: Path) -> None:
    """What a user of a hub expects of it: the encoder, whole, with its tokenizer and settings."""
    from transformers import AutoModel, AutoTokenizer

    bundle = Bundle.load(tiny_bundle)
    name = next(n for n, member in bundle.contents.members.items() if member.encoder == MAIN)
    model, report = AutoModel.from_pretrained(tiny_bundle, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    own = load_member(bundle.weights_dir(name), bundle.encoder_dir(name), bundle.config(name))
    inputs = AutoTokenizer.from_pretrained(tiny_bundle)(["a warm film"], return_tensors="pt")
    with torch.inference_mode():
        states = model.eval()(**inputs).last_hidden_state
        expected = own.encoder(**inputs).last_hidden_state
    torch.testing.assert_close(states, expected)


def one_by_one(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Every task by itself, every row as it stands: no sentence is shared."""
    bundle = Ensemble.load(folder).bundle
    ensemble = Ensemble.load(folder)
    parts = []
    for name in TASKS:
        entry = bundle.contents.tasks[name]
        sides = tuple(tuple(frame[column]) for column in entry.task.columns.sentences)
        raw = []
        for share in entry.members:
            encoder = bundle.encoder_dir(share.member)
            model = load_member(
                bundle.weights_dir(share.member), encoder, bundle.config(share.member)
            )
            raw.append(evaluate.predict(model, name, sides, load_tokenizer(encoder)))
        outputs = combine(entry.task, raw, [share.weight for share in entry.members])
        parts.append(ensemble.frame(name, outputs).add_prefix(f"{name}_"))
    return pd.concat(parts, axis=1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_several_tasks_get_what_each_gets_alone(
    tiny_bundle: Path, lively: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr("ensemble.inference.ensemble._CHUNK", 16)
    frame = mixed(40)
    for folder, tolerance in ((tiny_bundle, 1e-5), (lively, 1e-3)):
        ensemble = Ensemble.load(folder, batch_size)
        together = ensemble.label(frame, TASKS)
        alone = [ensemble.predict(frame, name).add_prefix(f"{name}_") for name in TASKS]
        for expected in (pd.concat(alone, axis=1), one_by_one(folder, frame)):
            pd.testing.assert_frame_equal(together, expected, atol=tolerance, rtol=0)
    assert together["sentiment_probability_0"].std() > 0 < together["similarity_label"].std()


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


def test_what_cannot_be_scored_is_said(ensemble: Ensemble, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to score: sentiment: ids-sst-dev.csv is not the"):
        ensemble.evaluate(tmp_path)
    with pytest.raises(DataError, match=r"ids-sst-test-student.csv has no labelled rows"):
        ensemble.evaluate(tiny_data, "test")
    shutil.copy(tiny_data / "sts-dev.csv", tmp_path)
    found = ensemble.evaluate(tmp_path)
    assert list(found.scores) == ["similarity"]
    assert found.overall == pytest.approx((found.scores["similarity"] + 1) / 2)
    assert found.unscored == {
        "sentiment": "ids-sst-dev.csv is not there",
        "paraphrase": "quora-dev.csv is not there",
    }


def test_bad_rows_stop_or_are_counted(ensemble: Ensemble, tiny_data: Path, tmp_path: Path) -> None:
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
