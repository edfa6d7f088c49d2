"""Columns, kind and labels are detected from names and cells, unless they are given."""

from typing import Any

import pytest

from mlflow_setup.errors import ConfigError
from trainable.config.tasks import Kind
from trainable.imports.finding import DETECT, Given, TableLayout, find

TEXT = [f"the film {n} was long" for n in range(60)]


def _find(given: Given = DETECT, **columns: list[Any]) -> TableLayout:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return find(list(columns), rows, given)


def _in_turn(*values: Any) -> list[Any]:
    """60 cells, which repeat the values."""
    return [values[n % len(values)] for n in range(60)]


@pytest.mark.parametrize(
    ("label", "cells", "kind", "labels"),
    [
        ("stars", _in_turn("10", "9", "1"), "classification", ("1", "9", "10")),
        ("mood", _in_turn("sad", "glad"), "classification", ("glad", "sad")),
        ("x", _in_turn("no", "yes"), "classification", ("no", "yes")),
        ("score", _in_turn("0.5", "2", "3.25"), "regression", ()),
        ("score", [str(n) for n in range(60)], "regression", ()),
        ("tags", _in_turn("a|b", "b", "", "a|c"), "multilabel", ("a", "b", "c")),
        ("tags", _in_turn(["a"], ["b", "a"]), "multilabel", ("a", "b")),
    ],
)
def test_single_sentences(label: str, cells: list[Any], kind: str, labels: tuple[str, ...]) -> None:
    found = _find(**{"id": [f"r{n}" for n in range(60)], "text": TEXT, label: cells})
    assert (found.kind, found.sentences, found.label) == (kind, ("text",), label)
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


def test_the_scale_of_scores_is_detected() -> None:
    for values, scale in [
        (("0.1", "0.9"), (0, 1)),
        (("1.5", "7"), (0, 10)),
        (("-2.5", "3"), (-3, 5)),
    ]:
        found = _find(text=TEXT, score=_in_turn(*values))
        assert (found.min_score, found.max_score) == scale
    given = Given(min_score=-5, max_score=8)
    assert _find(given, text=TEXT, score=_in_turn("0.1", "1")).max_score == 8


def test_scores_with_decimal_commas() -> None:
    prices = [f"{n},{n % 10}" for n in range(60)]
    found = _find(Given(label="Preis"), text=TEXT, Preis=prices)
    assert (found.kind, found.max_score) == ("regression", 100)
    assert found.label_of({"Preis": "3,9"}) == "3.9"
    thousands = [f"{n},500" for n in range(60)]
    with pytest.raises(ConfigError, match="not numbers: 0,500"):
        _find(Given(label="Preis", kind="regression"), text=TEXT, Preis=thousands)


def test_given_properties_are_not_detected() -> None:
    columns = {
        "text": TEXT,
        "title": TEXT[::-1],
        "mood": _in_turn("b", "a"),
        "n": _in_turn("1", "2"),
    }
    given = Given(sentences=("title",), label="n", id="none", labels=("2", "1"), metric="macro_f1")
    found = _find(given, **columns)
    assert (found.sentences, found.label, found.labels) == (("title",), "n", ("2", "1"))
    assert _find(Given(kind="regression", label="n"), **columns).kind is Kind.REGRESSION
    assert (
        _find(Given(label="n", sentences=("text", "title")), **columns).kind
        == "pair_classification"
    )


@pytest.mark.parametrize(
    ("given", "columns", "message"),
    [
        (Given(label="moods"), {"text": TEXT, "mood": TEXT}, "did you mean mood"),
        (
            DETECT,
            {"text": TEXT, "one": _in_turn("a", "b"), "two": _in_turn("c", "d")},
            "one, two\nfix: name one: --label one or --label two",
        ),
        (
            DETECT,
            {"n": _in_turn("1", "2"), "label": _in_turn("a", "b")},
            "no column of sentences",
        ),
        (DETECT, {"text": TEXT}, "no column of labels"),
        (DETECT, {"text": TEXT, "label": [""] * 60}, r"label \(empty\)\nfix: add a column"),
        (DETECT, {"text": TEXT, "Der Preis": list(range(60))}, "name it: --label 'Der Preis'"),
        (
            Given(label="title"),
            {"text": TEXT, "title": TEXT[::-1]},
            "60 distinct labels in 60 rows",
        ),
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
def test_failed_detection_is_an_error(
    given: Given, columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _find(given, **columns)
