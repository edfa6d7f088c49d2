"""A plan's note on niceness; its other checks: `tests/faults/test_plan_faults.py`."""

import pytest

from search.planning.plan import niceness


@pytest.mark.parametrize(
    ("environment", "load", "is_noted"),
    [
        ({}, 3.0, True),
        ({}, 0.4, False),  # no other work
        ({"RAY_worker_niceness": "0"}, 3.0, False),
        ({"RAY_worker_niceness": "5"}, 3.0, True),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, 3.0, False),  # started by another process
    ],
)
def test_a_plan_notes_trials_of_lower_priority_than_other_work(
    environment: dict[str, str], load: float, is_noted: bool
) -> None:
    note = niceness(environment, load, num_cpus=4)
    assert (note is not None) == is_noted
    if note is not None:
        assert note.startswith("other work keeps 3.0 of 4 CPUs busy")
        assert note.endswith(f"niceness {environment.get('RAY_worker_niceness', '15')}")
