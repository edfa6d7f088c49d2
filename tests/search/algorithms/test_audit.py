"""What early stopping cost, counted by hand."""

from pathlib import Path

import pytest
from past_sweep import Past

from mlflow_setup.schema import CONTINUE, STOP, Outcome
from search.algorithms.audit import audit_result
from search.algorithms.rungs import AUDITED, Audit, SuccessiveHalving

WENT_ON = f"continue; {AUDITED}"


def past(folder: Path, audited: tuple[float, ...]) -> Past:
    """Three trials that were never below a cut-off, with 0.5 as their median; four stopped."""
    found = Past(folder)
    for number, best in enumerate((0.4, 0.5, 0.6)):
        found.trial(f"000{number}", (0.3, best), Outcome.FINISHED)
    for number in range(4):
        found.trial(f"001{number}", (0.1,), Outcome.PRUNED, (STOP,))
    for number, best in enumerate(audited):
        found.trial(f"002{number}", (0.1, best), Outcome.FINISHED, (WENT_ON, CONTINUE))
    return found


@pytest.mark.parametrize(
    ("audited", "num_wrongful", "expected"),
    [((0.2, 0.49), 0, 0.0), ((0.2, 0.5), 1, 2.0), ((0.9, 0.7), 2, 4.0)],
)
def test_wrongful_stops_are_estimated_from_the_audited(
    tmp_path: Path, audited: tuple[float, ...], num_wrongful: int, expected: float
) -> None:
    found = audit_result(past(tmp_path, audited).history())
    assert found is not None
    assert (found.num_audited, found.num_wrongful, found.num_stopped) == (2, num_wrongful, 4)
    assert found.expected_wrongful == pytest.approx(expected)
    assert f"{num_wrongful} of 2 trials" in found.describe()


def test_nothing_is_said_without_an_audit(tmp_path: Path) -> None:
    assert audit_result(past(tmp_path, ()).history()) is None


def test_the_schedulers_word_is_the_one_looked_for() -> None:
    halving = SuccessiveHalving(1, 2, Audit(1.0, 0))
    halving.decide("a", 1, 0.9, 4)
    word = halving.decide("b", 1, 0.1, 4)
    assert word.action == CONTINUE
    assert AUDITED in word.reason
