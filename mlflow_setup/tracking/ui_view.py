"""A saved view of a sweep's trials in MLflow's UI: the best first, with scores and searched
settings.

The UI stores views as tags of the experiment, in an internal format that may change with MLflow's
version; a browser test opens one. Without the view, the UI lists the same runs with fewer columns.
"""

import base64
import json
import zlib
from dataclasses import dataclass
from urllib.parse import urlencode

from mlflow_setup.schema import OVERALL, RunKind, Tag
from mlflow_setup.text import short_hash
from mlflow_setup.tracking.store import EXPERIMENT_TAGS, Tracking

_VIEW_TAG = "mlflow.sharedViewState."
_MAX_COLUMNS = 40
_WIDTH = 110  # pixels of a column, so that about a dozen are visible
_SECTION = {"uuid": "tasks", "name": "Tasks", "display": True, "isReordered": False}
"""The first section of charts; the UI adds one for each other group of metrics."""


@dataclass(frozen=True)
class View:
    """The metrics and params that the view shows for each trial."""

    metrics: tuple[str, ...]  # the objective first
    params: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The columns as the UI names them, at most 40: outcome, overall score, searched settings,
        and the score of each task."""
        overall, *scores = (f"metrics.`{name}`" for name in self.metrics)
        names = [f"tags.`{Tag.OUTCOME}`", overall, *(f"params.`{name}`" for name in self.params)]
        return [*names, *scores][:_MAX_COLUMNS]

    @property
    def charts(self) -> list[list[str]]:
        """The metrics of each chart: the objective, then for each task one chart with its train and
        dev losses and one with its score."""
        charts = []
        for best in self.metrics:
            metric = best.removeprefix("best/")
            _, task, *name = metric.split("/")
            if name:
                charts.append([f"{split}/{task}/loss" for split in ("train", "dev")])
            charts.append([metric])
        return charts


def save_view(tracking: Tracking, sweep: str, view: View, now: float) -> None:
    """Save the view under the sweep's name, replacing an existing one.

    Args:
        now: seconds since the Unix epoch.
    """
    client, experiment_id = tracking.client, tracking.experiment_id
    stamp = round(now * 1000)
    content = {"name": sweep, "createdAt": stamp, "updatedAt": stamp, "state": _state(sweep, view)}
    for tag, value in EXPERIMENT_TAGS.items():  # an older release may have created the experiment
        client.set_experiment_tag(experiment_id, tag, value)
    client.set_experiment_tag(experiment_id, f"{_VIEW_TAG}{_view_id(sweep)}", json.dumps(content))


def delete_view(tracking: Tracking, sweep: str) -> None:
    """Delete the sweep's view, if it has one."""
    experiment_id, tag = tracking.experiment_id, f"{_VIEW_TAG}{_view_id(sweep)}"
    if tag in tracking.client.get_experiment(experiment_id).tags:
        tracking.client.delete_experiment_tag(experiment_id, tag)


def view_path(tracking: Tracking, sweep: str) -> str:
    """The path of the UI's page with the sweep's trials, to append to its address.

    Raises:
        MlflowException and others: see `Tracking.errors`.
    """
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    if f"{_VIEW_TAG}{_view_id(sweep)}" in tags:
        parameters = {"viewStateShareKey": _view_id(sweep)}  # others would override the view
    else:
        parameters = {**_filter(sweep), "orderByAsc": "false"}
    query = urlencode({"workflowType": "machine_learning", **parameters})
    return f"/#/experiments/{tracking.experiment_id}/runs?{query}"


def _state(sweep: str, view: View) -> str:
    """The UI's state to restore, as compressed JSON."""
    state: dict[str, object] = {
        **_filter(sweep),
        "orderByAsc": False,
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": view.columns,
        "columnOrder": view.columns,
        "columnWidths": dict.fromkeys(view.columns, _WIDTH),
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "isAccordionReordered": True,  # keeps our section before the UI's own
        "compareRunSections": [_SECTION],
        "compareRunCharts": [_chart(metrics) for metrics in view.charts],
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return f"deflate;{packed}"


def _chart(metrics: list[str]) -> dict[str, object]:
    """A line chart over the epochs in the UI's format; its title is the metrics' names."""
    return {
        "uuid": short_hash(*metrics),
        "type": "LINE",
        "metricSectionId": _SECTION["uuid"],
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
        "metricKey": metrics[0],
        "selectedMetricKeys": metrics,
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _filter(sweep: str) -> dict[str, str]:
    """The filter and order of the runs."""
    wanted = f"tags.{Tag.SWEEP} = '{sweep}' and tags.{Tag.KIND} = '{RunKind.TRIAL}'"
    order = f"metrics.`best/{OVERALL}`"
    return {"searchFilter": wanted, "orderByKey": order, "startTime": "ALL"}


def _view_id(sweep: str) -> str:
    return short_hash(sweep)
