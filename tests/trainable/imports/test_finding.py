"""Columns, kind and labels, found from names and cells, and corrected."""

from typing import Any

import pytest

from mlflow_setup.errors import ConfigError
from trainable.config.tasks import Kind
from trainable.imports.finding import DETECT, Given, TableLayout, find

TEXT = [f"the film {n} was long" for n in range(60)]


def _find(told: Given = DETECT, **columns: list[Any]) -> TableLayout:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return find(list(columns), rows, told)


def _in_turn(*values: Any) -> list[Any]:
    return [values[n % len(values)] for n in range(60)]


@pytest.mark.parametrize(
    ("columns", "kind", "sentences", "label", "labels"),
    [
        (
            {"stars": _in_turn("10", "9", "1")},
            "classification",
            ["text"],
            "stars",
            ("1", "9", "10"),
        ),
        ({"mood": _in_turn("sad", "glad")}, "classification", ["text"], "mood", ("glad", "sad")),
        ({"x": _in_turn("no", "yes")}, "classification", ["text"], "x", ("no", "yes")),
        ({"score": _in_turn("0.5", "2", "3.25")}, "regression", ["text"], "score", ()),
        ({"score": [str(n) for n in range(60)]}, "regression", ["text"], "score", ()),
        (
            {"tags": _in_turn("a|b", "b", "", "a|c")},
            "multilabel",
            ["text"],
            "tags",
            ("a", "b", "c"),
        ),
        ({"tags": _in_turn(["a"], ["b", "a"])}, "multilabel", ["text"], "tags", ("a", "b")),
    ],
)
def test_single_sentences(
    columns: dict[str, list[Any]],
    kind: str,
    sentences: list[str],
    label: str,
    labels: tuple[str, ...],
) -> None:
    ids = {"id": [f"r{n}" for n in range(60)], "date": _in_turn("2024-01-01", "2024-01-02", "")}
    del ids["date"]
    found = _find(**ids, text=TEXT, **columns)
    assert (found.kind, list(found.sentences), found.label) == (kind, sentences, label)
    assert (found.labels, found.id) == (labels, "id")


@pytest.mark.parametrize(
    ("names", "labels", "kind", "order"),
    [
        (("sentence1", "sentence2"), ("1", "0"), "paraphrase", ("0", "1")),
        (("text_a", "text_b"), ("same", "apart"), "paraphrase", ("apart", "same")),
        (("premise", "hypothesis"), ("b", "a", "c"), "pair_classification", ("a", "b", "c")),
        (("question1", "question2"), ("x", "y"), "pair_classification", ("x", "y")),
        (("s1", "s2"), ("0.5", "4.5"), "similarity", ()),
    ],
)
def test_pairs(names: tuple[str, str], labels: tuple[str, ...], kind: str, order: object) -> None:
    one, other = names
    found = _find(**{"label": _in_turn(*labels), one: TEXT, other: TEXT[::-1]})
    assert (found.kind, found.sentences, found.labels) == (kind, names, order)
    assert _find(**{one: TEXT, other: TEXT}).kind is Kind.ENTAILMENT


def test_scores_take_the_usual_scale() -> None:
    for values, scale in [
        (("0.1", "0.9"), (0, 1)),
        (("1.5", "7"), (0, 10)),
        (("-2.5", "3"), (-3, 5)),
    ]:
        found = _find(text=TEXT, score=_in_turn(*values))
        assert (found.min_score, found.max_score) == scale
    told = Given(min_score=-5, max_score=8)
    assert _find(told, text=TEXT, score=_in_turn("0.1", "1")).max_score == 8


def test_what_is_told_is_taken() -> None:
    columns = {
        "text": TEXT,
        "title": TEXT[::-1],
        "mood": _in_turn("b", "a"),
        "n": _in_turn("1", "2"),
    }
    told = Given(sentences=("title",), label="n", id="none", labels=("2", "1"), metric="macro_f1")
    found = _find(told, **columns)
    assert (found.sentences, found.label, found.labels) == (("title",), "n", ("2", "1"))
    assert _find(Given(kind="regression", label="n"), **columns).kind is Kind.REGRESSION
    assert (
        _find(Given(label="n", sentences=("text", "title")), **columns).kind
        == "pair_classification"
    )


@pytest.mark.parametrize(
    ("told", "columns", "message"),
    [
        (Given(label="moods"), {"text": TEXT, "mood": TEXT}, "did you mean mood"),
        (
            DETECT,
            {"text": TEXT, "one": _in_turn("a", "b"), "two": _in_turn("c", "d")},
            "several columns may have the labels: one, two",
        ),
        (
            DETECT,
            {"n": _in_turn("1", "2"), "label": _in_turn("a", "b")},
            "no column of sentences",
        ),
        (DETECT, {"text": TEXT}, "no column of labels"),
        (
            DETECT,
            {"text": TEXT, "verdict": _in_turn("good")},
            r"others: verdict \(always good\)",
        ),
        (DETECT, {"text": TEXT, "label": _in_turn("a")}, r"1 distinct label\(s\)"),
        (
            Given(kind="regression"),
            {"text": TEXT, "label": _in_turn("a", "1")},
            "not numbers: a",
        ),
        (
            Given(kind="paraphrase"),
            {"text": TEXT, "label": _in_turn("a", "b")},
            "2 sentence column",
        ),
    ],
)
def test_what_cannot_be_found(told: Given, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _find(told, **columns)
