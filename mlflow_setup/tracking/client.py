"""The one import of mlflow: without telemetry, without chatter, and quick to give up.

What a caller has set in the environment stands. The defaults here are read by mlflow when it is
imported, so they come first; a server that `mlflow_setup.tracking.ui_server` starts inherits them.
"""

import logging
import os
from functools import cache

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A sweep must not wait minutes for its tracking server: the mirror catches up by itself.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # A server is not asked, before each download, whether it splits large files: these are small.
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

# A database that is locked or full raises, and the caller reports it: not a traceback as well.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

# Whether this is Databricks is asked once: before each request, it is a look for eleven modules.
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
    "download_artifacts",
]
