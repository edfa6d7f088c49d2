"""The estimate of early stopping's wrongful stops, from trials that continue as an audit."""

from pathlib import Path

import pytest
from past_sweep import Past

from mlflow_setup.schema import CONTINUE, STOP, Outcome
from search.algorithms.audit import audit_result
from search.algorithms.rungs import AUDITED, Audit, SuccessiveHalving

AUDITED_DECISION = f"continue; {AUDITED}"


def past(folder: Path, audited: tuple[float, ...]) -> Past:
    """Three trials that were never below a cut-off, of median 0.5; four stopped; the audited."""
    found = Past(folder)
    for number, best in enumerate((0.4, 0.5, 0.6)):
        found.trial(f"000{number}", (0.3, best), Outcome.FINISHED)
    for number in range(4):
        found.trial(f"001{number}", (0.1,), Outcome.PRUNED, (STOP,))
    for number, best in enumerate(audited):
        found.trial(f"002{number}", (0.1, best), Outcome.FINISHED, (AUDITED_DECISION, CONTINUE))
    return found


@pytest.mark.parametrize(
    ("audited", "num_wrongful", "expected"),
    [((0.2, 0.49), 0, 0.0), ((0.2, 0.5), 1, 2.0), ((0.9, 0.7), 2, 4.0)],
)
def test_wrongful_stops_are_estimated_from_audited_trials(
    tmp_path: Path, audited: tuple[float, ...], num_wrongful: int, expected: float
) -> None:
    found = audit_result(past(tmp_path, audited).history())
    assert found is not None
    assert (found.num_audited, found.num_wrongful, found.num_stopped) == (2, num_wrongful, 4)
    assert found.expected_wrongful == pytest.approx(expected)
    assert f"{num_wrongful} of 2 trials" in found.describe()


def test_without_audited_trials_there_is_no_estimate(tmp_path: Path) -> None:
    assert audit_result(past(tmp_path, ()).history()) is None


def test_the_scheduler_marks_audited_trials_in_its_reason() -> None:
    halving = SuccessiveHalving(1, 2, Audit(1.0, 0))
    halving.decide("a", 1, 0.9, 4)
    decision = halving.decide("b", 1, 0.1, 4)
    assert decision.action == CONTINUE
    assert AUDITED in decision.reason
