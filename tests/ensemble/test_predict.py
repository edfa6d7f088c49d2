"""A loaded bundle gives what its members' dev predictions, averaged, give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ensweep
from ensemble.combine import combine
from ensemble.predict import Ensemble, submission
from mlflow_setup.errors import ConfigError, DataError
from trainable.predictions import Predictions
from trainable.record import TrialFolder
from trainable.tasks import PAPER_TASKS


@pytest.fixture(scope="module")
def ensemble(tiny_bundle: Path) -> Ensemble:
    return ensweep.load(tiny_bundle)


@pytest.mark.parametrize("task", ["sentiment", "paraphrase", "similarity"])
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
        recorded.append(Predictions.read(folder.predictions_path(task, member.epoch)))
    expected = combine(
        entry.task, [p.outputs for p in recorded], [share.weight for share in entry.members]
    )
    from trainable.reading import read_split

    examples, _ = read_split(task, entry.task, "dev", tiny_data)
    assert examples.ids == recorded[0].ids
    actual = ensemble.outputs(task, examples.sentences)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_frames(ensemble: Ensemble) -> None:
    frame = ensemble.predict(["a warm film", "a dull plot"], task="sentiment")
    assert list(frame.columns) == ["label", *(f"probability_{c}" for c in range(5))]
    assert frame.filter(like="probability").sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    pairs = [("how do i learn chess", "can i learn chess well")]
    frame = ensemble.predict(pairs, task="paraphrase")
    assert frame["label"][0] == int(frame["probability"][0] > 0.5)
    assert -5 <= ensemble.predict(pairs, task="similarity")["label"][0] <= 5
    columns = pd.DataFrame({"sentence1": ["a film"], "sentence2": ["the film"], "other": [1]})
    assert len(ensemble.predict(columns, task="similarity")) == 1


def test_the_task_may_be_left_out_where_one_fits(ensemble: Ensemble) -> None:
    assert len(ensemble.predict("a warm film")) == 1
    with pytest.raises(ConfigError, match=r"2 tasks of .* take such sentences"):
        ensemble.predict([("a", "b")])
    with pytest.raises(ConfigError, match="no task 'mood'"):
        ensemble.predict("a film", task="mood")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "no sentences"),
        (["a film", ""], "row 2: sentence is empty"),
        (["a film", None], "row 2"),
        ([("a", "b")], "row 1: 2 sentence"),
        (pd.DataFrame({"text": ["a"]}), "no column sentence"),
        (pd.DataFrame({"sentence": [float("nan")]}), "row 1: sentence is empty or not text"),
    ],
)
def test_bad_input_is_named(ensemble: Ensemble, sentences: object, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        ensemble.predict(sentences, task="sentiment")


def test_evaluate(ensemble: Ensemble, tiny_data: Path, tmp_path: Path) -> None:
    scores = ensemble.evaluate(tiny_data)
    assert set(scores) == {"sentiment", "paraphrase", "similarity", "overall"}
    parts = [scores["sentiment"], scores["paraphrase"], (scores["similarity"] + 1) / 2]
    assert scores["overall"] == pytest.approx(np.mean(parts))
    with pytest.raises(DataError, match="no labelled dev file"):
        ensemble.evaluate(tmp_path)


def test_submission_is_byte_for_byte_the_courses() -> None:
    cases = {
        "sentiment": ("1ae91087064d5035fe6c0c63f", 1.0, "Predicted_Sentiment", "1"),
        "paraphrase": ("fbfddc56315fb8a39e7608fa0", 1.0, "Predicted_Is_Paraphrase", "1.0"),
        "similarity": (
            "876d0172eef5db7776e39c5de",
            1.8492281436920166,
            "Predicted_Similiary",
            "1.8492281436920166",
        ),
    }
    for name, (id_, label, header, value) in cases.items():
        expected = f"id \t{header} \n{id_} , {value} \n"
        assert submission(PAPER_TASKS[name], [id_], [label]) == expected
