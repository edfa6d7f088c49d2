"""A trial's data as an MLflow dataset: folder, fingerprint and tasks."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from mlflow_setup.schema import UNKNOWN_DATA
from mlflow_setup.tracking.client import Dataset, DatasetInput, InputTag
from mlflow_setup.uris import is_uri, redact

_MAX_DIGEST = 36  # characters: MLflow's limit
_CONTEXT = InputTag("mlflow.data.context", "training")


def dataset_input(fingerprint: str, config: Mapping[str, Any]) -> DatasetInput | None:
    """The MLflow dataset of a trial; None if the trial failed before it read its data.

    Args:
        fingerprint: hash of all examples.
        config: dotted name -> value.
    """
    place = redact(str(config.get("data.dir") or ""))
    if not place or fingerprint in ("", UNKNOWN_DATA):
        return None
    tasks = config.get("data.tasks") or []
    dataset = Dataset(
        name=PurePosixPath(place.rstrip("/")).name or "data",
        digest=fingerprint[:_MAX_DIGEST],
        source_type=urlsplit(place).scheme if is_uri(place) else "local",
        source=json.dumps({"uri": place}),
        profile=json.dumps({"tasks": tasks, "train_fraction": config.get("data.train_fraction")}),
    )
    return DatasetInput(dataset, tags=[_CONTEXT])
