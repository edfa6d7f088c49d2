"""One database per module, one sweep per test."""

from itertools import count

import pytest

from mlflow_setup.tracking.store import Tracking, resolve_tracking

NUMBERS = count()  # names of sweeps in the module's database


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return resolve_tracking(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def sweep() -> str:
    return f"sweep-{next(NUMBERS)}"
