"""Each distinct encoder runs once a sentence."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from lively import TASKS, vouch

from ensemble.bundle.format import ENCODERS, MAIN, WEIGHTS, Bundle
from ensemble.inference.ensemble import Ensemble
from ensemble.selection.combine import combine
from trainable.batches.packing import Packed
from trainable.batches.tokenization import load_tokenizer
from trainable.evaluation import evaluate
from trainable.model.multitask import MultitaskBert, load_member


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of sentences that each forward pass of an encoder embeds."""
    sizes: list[int] = []
    true_embed = MultitaskBert.embed

    def counted(self: MultitaskBert, packed: Packed) -> torch.Tensor:
        sizes.append(len(packed.lengths))
        return true_embed(self, packed)

    monkeypatch.setattr(MultitaskBert, "embed", counted)
    return sizes


def mixed(num_rows: int) -> pd.DataFrame:
    """Rows for all three tasks; some of them share sentences."""
    words = ["a warm film", "the dull plot is slow", "how do i learn chess", "chess", "not a film"]
    pick = [words[(3 * row + row // 5) % 5] for row in range(2 * num_rows)]
    columns = {"sentence": pick[:num_rows], "sentence1": pick[1 : num_rows + 1]}
    return pd.DataFrame(columns | {"sentence2": pick[num_rows:]})


def test_each_encoder_runs_once_a_sentence_for_all_tasks(lively: Path, embedded: list[int]) -> None:
    Ensemble.load(lively, batch_size=2).label(mixed(40), TASKS)
    assert embedded == [2, 2, 1] * 2  # five distinct sentences, two members


def test_members_with_equal_encoders_run_one_of_them(
    lively: Path, tmp_path: Path, embedded: list[int]
) -> None:
    folder = shutil.copytree(lively, tmp_path / "bundle")
    (other,) = (folder / ENCODERS).iterdir()
    shutil.copy(folder / WEIGHTS, other / WEIGHTS)
    vouch(folder)
    actual = Ensemble.load(folder).label(mixed(10), TASKS)
    assert embedded == [5]
    pd.testing.assert_frame_equal(actual, one_by_one(folder, mixed(10)), atol=1e-3, rtol=0)


def test_transformers_loads_the_main_encoder(tiny_bundle: Path) -> None:
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
    """Labels of each task alone, in which each row is embedded by itself."""
    ensemble = Ensemble.load(folder)
    bundle, parts = ensemble.bundle, []
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
def test_labels_of_several_tasks_equal_those_of_each_alone(
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
