"""Tasks: valid declarations, and how labels are shown."""

import pytest
from pydantic import ValidationError

from trainable.config.tasks import KINDS, Kind, Task

FILES = {"train": "t", "dev": "d"}


def _task(kind: str, **declared: object) -> Task:
    return Task(kind=kind, files=FILES, **declared)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "declared", "label", "shown"),
    [
        ("classification", {"labels": ["bad", "good"]}, 1.0, "good"),
        ("classification", {"num_classes": 3}, 2.0, 2),
        ("classification", {"labels": [1, 2, 3]}, 0.0, "1"),
        ("pair_classification", {"labels": ["no", "maybe", "so"]}, 1.0, "maybe"),
        ("paraphrase", {"labels": ["other", "same"]}, 1.0, "same"),
        ("similarity", {}, 2.5, 2.5),
        ("regression", {"min_score": -1, "max_score": 1}, -0.5, -0.5),
        ("multilabel", {"labels": ["a", "b", "c"]}, 5.0, "a|c"),
        ("multilabel", {"labels": ["a", "b"], "label_separator": ", "}, 3.0, "a, b"),
        ("multilabel", {"labels": ["a", "b"]}, 0.0, ""),
    ],
)
def test_a_label_is_shown_by_its_name(
    kind: str, declared: dict[str, object], label: float, shown: object
) -> None:
    answer = _task(kind, **declared).show(label)
    assert answer == shown
    assert type(answer) is type(shown)


@pytest.mark.parametrize(
    ("kind", "declared", "message"),
    [
        ("classification", {"labels": ["a", "b"], "num_classes": 3}, "2 labels are named"),
        ("classification", {"labels": ["a", "a"]}, "named twice"),
        ("classification", {"labels": ["a", " b"]}, "not a valid label name"),
        ("classification", {"labels": ["a", ""]}, "not a valid label name"),
        ("paraphrase", {"labels": ["a", "b", "c"]}, "has 2 classes"),
        ("similarity", {"labels": ["a", "b"]}, "has no labels to name"),
        ("similarity", {"min_score": 1}, "begin at 0"),
        ("regression", {"min_score": 5}, "not above 5"),
        ("multilabel", {"labels": ["a|b", "c"]}, "not a valid label name"),
        ("multilabel", {"num_classes": 51}, "at most 50 labels"),
        ("multilabel", {"labels": ["a", "b"], "metric": "pearson"}, "metric of a multilabel task"),
    ],
)
def test_invalid_declarations_are_refused(
    kind: str, declared: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        _task(kind, **declared)


def test_every_kind_but_entailment_has_a_default_metric() -> None:
    assert set(KINDS) == set(Kind)
    for kind in Kind:
        metric = _task(kind).metric
        assert metric == next(iter(kind.output.metrics), None)
        assert (metric is None) == (kind is Kind.ENTAILMENT)
