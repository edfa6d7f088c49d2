"""An environment without Ray."""

import pytest
import ray


@pytest.fixture
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is not configured, and seems not to run."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
