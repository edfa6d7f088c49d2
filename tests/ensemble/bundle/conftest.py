"""Fixtures of these tests."""

from pathlib import Path

import pytest
from written_bundle import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")
