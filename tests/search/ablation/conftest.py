"""Fixtures of these tests."""

from pathlib import Path

import pytest
from study_trials import Trials


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)
