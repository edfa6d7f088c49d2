"""The settings with which MLflow is imported."""

import pytest
from mlflow.tracking.request_header.registry import resolve_request_headers
from mlflow.utils import databricks_utils

from mlflow_setup.tracking.client import DatabricksRequestHeaderProvider


def test_requests_do_not_look_for_databricks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    DatabricksRequestHeaderProvider.in_context.cache_clear()
    asked: list[str] = []
    monkeypatch.setattr(databricks_utils, "is_in_cluster", lambda: asked.append("") and False)
    headers = [resolve_request_headers() for _ in range(3)]
    assert len(asked) == 1
    assert all("User-Agent" in each for each in headers)
