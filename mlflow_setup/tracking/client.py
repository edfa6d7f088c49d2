"""Import mlflow with telemetry off, little logging, and short timeouts.

Variables already set in the environment take precedence. mlflow reads these defaults when it is
imported, so they are set first; a server started by `mlflow_setup.tracking.ui_server` inherits
them.
"""

import logging
import os
from functools import cache

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A sweep must not wait minutes for its tracking server: the mirror catches up later.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # Our artifacts are small: do not ask the server before each download about multipart support.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402 - the environment comes first
from mlflow.artifacts import download_artifacts  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking.request_header.databricks_request_header_provider import (  # noqa: E402
    DatabricksRequestHeaderProvider,
)

# The caller reports a locked or full database: no traceback in the log as well.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

# Check only once for Databricks: mlflow would look for eleven modules before each request.
DatabricksRequestHeaderProvider.in_context = cache(DatabricksRequestHeaderProvider.in_context)

__all__ = [
    "Dataset",
    "DatasetInput",
    "InputTag",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "Param",
    "Run",
    "RunTag",
    "connect",
    "download_artifacts",
]


def connect(uri: str) -> MlflowClient:
    """Return MLflow's client of a server or of a database that is not an SQLite file.

    A database that does not answer is tried twice, as a server is: MLflow would try for 102 s.
    """
    if not uri.startswith(("http://", "https://")):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 2
    return MlflowClient(uri, registry_uri=uri)
