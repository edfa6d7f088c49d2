"""The saved view of a sweep's trials; a browser test opens it."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from mlflow_setup.tracking.store import resolve_tracking
from mlflow_setup.tracking.ui_view import View, save_view, view_path

VIEW = View(("best/dev/overall", "best/dev/sentiment/accuracy"), ("optim.lr", "model.pooling"))


def test_a_view_shows_outcome_settings_scores_and_charts(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    save_view(tracking, "s", VIEW, 1.0)
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    (content,) = [value for key, value in tags.items() if key.startswith("mlflow.sharedView")]
    packed = json.loads(content)["state"].removeprefix("deflate;")
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert state["selectedColumns"] == [
        *("tags.`outcome`", "metrics.`best/dev/overall`"),
        *("params.`optim.lr`", "params.`model.pooling`"),
        "metrics.`best/dev/sentiment/accuracy`",
    ]
    assert [chart["selectedMetricKeys"] for chart in state["compareRunCharts"]] == [
        ["dev/overall"],
        ["train/sentiment/loss", "dev/sentiment/loss"],
        ["dev/sentiment/accuracy"],
    ]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    assert "viewStateShareKey" in view_path(tracking, "s")


def test_a_new_experiment_opens_on_its_runs(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "one run for each sweep" in tags["mlflow.note.content"]
