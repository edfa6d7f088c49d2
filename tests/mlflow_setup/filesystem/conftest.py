"""Fixtures of these tests."""

from pathlib import Path

import pytest
from stores import Machines


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machines:
    return Machines(monkeypatch, tmp_path)
