"""The settings with which MLflow is imported."""

import pytest
from mlflow.tracking.request_header.registry import resolve_request_headers
from mlflow.utils import databricks_utils

from mlflow_setup.tracking.client import DatabricksRequestHeaderProvider


def test_databricks_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    DatabricksRequestHeaderProvider.in_context.cache_clear()
    calls: list[str] = []
    monkeypatch.setattr(databricks_utils, "is_in_cluster", lambda: calls.append("") and False)
    headers = [resolve_request_headers() for _ in range(3)]
    assert len(calls) == 1
    assert all("User-Agent" in each for each in headers)
