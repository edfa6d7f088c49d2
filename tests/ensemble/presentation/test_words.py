"""Sentences about a choice."""

from types import SimpleNamespace
from typing import Any

from ensemble.candidates.pool import Candidate
from ensemble.choice.cost import Cost
from ensemble.presentation.words import _other, size_of


def _candidate(trial: str, encoder: str) -> Candidate:
    return Candidate(trial, trial, "tiny", 1, "runs/tiny", 25_000_000, encoder, 24_000_000)


def test_another_ensemble_with_as_many_encoders_is_named_with_its_size() -> None:
    choice: Any = SimpleNamespace(cost=Cost())
    shipped = [_candidate("a", "frozen")]
    heads = [*shipped, _candidate("b", "frozen")]
    assert _other(choice, heads, shipped) == "1 encoder with the heads of 2 runs (104 MB)"
    assert _other(choice, [*heads, _candidate("c", "own")], shipped) == "2 encoders"


def test_added_models_are_no_encoders() -> None:
    choice: Any = SimpleNamespace(cost=Cost())
    added = Candidate("added:sk.csv", "sk.csv", None, 0, "", 0)
    one = [_candidate("a", "frozen"), added]
    assert size_of(choice, one) == "1 encoder and 1 added model (100 MB)"
    two = [_candidate("b", "frozen"), *one]
    assert size_of(choice, two) == "1 encoder with the heads of 2 runs and 1 added model (104 MB)"
