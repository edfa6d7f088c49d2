"""What a plan says without looking into a cluster; the rest: `tests/faults/test_plan_faults.py`."""

import pytest

from search.planning.plan import niceness


@pytest.mark.parametrize(
    ("environment", "load", "is_said"),
    [
        ({}, 3.0, True),
        ({}, 0.4, False),  # nothing else runs
        ({"RAY_worker_niceness": "0"}, 3.0, False),
        ({"RAY_worker_niceness": "5"}, 3.0, True),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, 3.0, False),  # its workers are another's
    ],
)
def test_trials_that_give_way_to_other_work_are_said(
    environment: dict[str, str], load: float, is_said: bool
) -> None:
    said = niceness(environment, load, num_cpus=4)
    assert (said is not None) == is_said
    if said is not None:
        assert said.startswith("other work keeps 3.0 of 4 CPUs busy")
        assert said.endswith(f"niceness {environment.get('RAY_worker_niceness', '15')}")
