"""A bundle with MLflow's scoring interface: validates requests and answers them.

The same validation applies to `ensweep serve` and to the MLflow model; the size of a request in
bytes is limited by the former only.
"""

import json
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import pandas as pd

from ensemble.inference.ensemble import Ensemble, check_row
from ensemble.serving.interface import MAX_CHARACTERS, example_of
from ensemble.serving.openapi import openapi
from mlflow_setup.errors import DataError
from mlflow_setup.models.registry import TASK_PARAM

MAX_BYTES, MAX_ROWS = 1 << 20, 1000
MAX_SECONDS = 60.0
_FORMATS = ("dataframe_records", "dataframe_split", "instances", "inputs")


class Service:
    """Answers requests to one bundle, one at a time.

    A request that has taken `max_seconds`, including its wait for earlier ones, is aborted, because
    its client no longer waits.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        max_bytes: int = MAX_BYTES,
        max_rows: int = MAX_ROWS,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self.ensemble, self.max_bytes, self.max_rows = ensemble, max_bytes, max_rows
        self.max_seconds = max_seconds
        self._lock = Lock()

    def warm_up(self) -> None:
        """Load all members, by predicting one row for each task."""
        for name, task in self.ensemble.tasks.items():
            self.ensemble.predict(example_of(task), name)

    def answer(self, body: bytes) -> bytes:
        """Return the labels of a request's rows; request and response are JSON as of MLflow's
        scoring server.

        Raises:
            DataError, ConfigError: as `check`.
            TimeoutError: the request took too long.
        """
        deadline = time.monotonic() + self.max_seconds
        labelled = self._in_turn(*self.check(body), deadline)
        return json.dumps({"predictions": labelled.to_dict("records")}).encode()

    def describe(self) -> bytes:
        """Return the OpenAPI document of the service as JSON."""
        return json.dumps(openapi(self.ensemble.tasks, self.max_rows)).encode()

    def check(self, body: bytes) -> tuple[pd.DataFrame, str]:
        """Validate a request in any of MLflow's formats and return its rows of sentences and its
        task.

        Raises:
            DataError, ConfigError: the request is invalid; the message says why.
        """
        request = _parsed(body)
        columns, rows = _table(request)
        name = self._task(request.get("params"), columns)
        names = self.ensemble.tasks[name].columns.sentences
        absent = [column for column in names if column not in columns]
        if absent:
            raise DataError(f"no column {', '.join(absent)}, which the task {name} needs")
        self._require_few(len(rows))
        places = [columns.index(column) for column in names]
        data = [
            _checked(f"row {number}", [row[place] for place in places], names)
            for number, row in enumerate(rows, start=1)
        ]
        return pd.DataFrame(data, columns=list(names)), name

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return labels and their probabilities, as `Ensemble.predict`.

        Raises:
            DataError, ConfigError: as `check`.
            TimeoutError: the request took too long.
        """
        deadline = time.monotonic() + self.max_seconds
        task = (params or {}).get(TASK_PARAM)
        name = self._task({TASK_PARAM: task}, list(model_input.columns))
        names = self.ensemble.tasks[name].columns.sentences
        self._require_few(len(model_input))
        if set(names) <= set(model_input.columns):
            for number, row in enumerate(model_input[list(names)].itertuples(index=False), 1):
                _checked(f"row {number}", list(row), names)
        return self._in_turn(model_input, name, deadline)

    def _in_turn(self, rows: pd.DataFrame, name: str, deadline: float) -> pd.DataFrame:
        """Label the rows after the earlier requests are answered."""
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError("the requests before it took too long")
        try:
            return self._label(rows, name, deadline)
        finally:
            self._lock.release()

    def _label(self, rows: pd.DataFrame, name: str, deadline: float) -> pd.DataFrame:
        """Label the rows batch by batch; the deadline is checked before each batch."""
        size, parts = self.ensemble.batch_size, []
        for start in range(0, len(rows), size):
            if time.monotonic() > deadline:
                raise TimeoutError("it took too long")
            parts.append(self.ensemble.predict(rows.iloc[start : start + size], name))
        return pd.concat(parts, ignore_index=True)

    def _task(self, params: Any, columns: Sequence[str]) -> str:
        """Return the task named in `params`, or else the only one with such columns."""
        if params is None:
            params = {}
        if not isinstance(params, dict) or not set(params) <= {TASK_PARAM}:
            raise DataError(f"params may only hold {TASK_PARAM!r}")
        task = params.get(TASK_PARAM)
        if task is not None and not isinstance(task, str):
            raise DataError(f"params: {TASK_PARAM} is {repr(task)[:40]}, not a name")
        tasks = self.ensemble.tasks
        if task is None:
            fitting = [name for name in tasks if set(tasks[name].columns.sentences) <= set(columns)]
            if len(fitting) == 1:
                return fitting[0]
        if task not in tasks:
            problem = "the task is not clear" if task is None else f"no task {task[:40]!r}"
            raise DataError(
                f"{problem}; there are {', '.join(tasks)}",
                fix='name the task: "params": {"task": ...}',
            )
        return task

    def _require_few(self, num_rows: int) -> None:
        if not 1 <= num_rows <= self.max_rows:
            raise DataError(f"{num_rows} rows, a request may have 1 to {self.max_rows}")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise DataError("the body is not a JSON object")
    unknown = set(request) - {*_FORMATS, "params"}
    if unknown or len(set(request) & set(_FORMATS)) != 1:
        raise DataError(
            f"the body must have exactly one of {', '.join(_FORMATS)}, and may have params"
        )
    return request


def _table(request: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of a request in any of MLflow's formats."""
    ((name, content),) = [(key, request[key]) for key in _FORMATS if key in request]
    if name == "dataframe_split":
        return _split(content)
    if isinstance(content, dict) and name == "inputs":
        return _columns(content)
    if not isinstance(content, list) or not content:
        raise DataError(f"{name} is not a list of rows")
    if not all(isinstance(row, dict) for row in content):
        raise DataError(f"{name}: a row is not an object of columns and sentences")
    columns = list(content[0])
    return columns, [[row.get(column) for column in columns] for row in content]


def _split(content: Any) -> tuple[list[str], list[list[Any]]]:
    if not isinstance(content, dict) or not {"columns", "data"} <= set(content):
        raise DataError("dataframe_split is not an object with columns and data")
    columns, rows = content["columns"], content["data"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise DataError("dataframe_split: columns is not a list of names")
    if not isinstance(rows, list):
        raise DataError("dataframe_split: data is not a list of rows")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise DataError(f"row {number} is not a list of {len(columns)} cell(s)")
    return columns, rows


def _columns(content: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    lists = {name: [cells] if isinstance(cells, str) else cells for name, cells in content.items()}
    if not all(isinstance(cells, list) for cells in lists.values()):
        raise DataError("inputs: a column is not a list of sentences")
    if len({len(cells) for cells in lists.values()}) > 1:
        raise DataError("inputs: the columns differ in length")
    return list(lists), [list(row) for row in zip(*lists.values(), strict=True)]


def _checked(place: str, cells: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences of a row, after checking that they are text, not empty and not too
    long."""
    row = check_row(place, cells, names)
    for name, sentence in zip(names, row, strict=True):
        if len(sentence) > MAX_CHARACTERS:
            raise DataError(f"{place}: {name} is longer than {MAX_CHARACTERS} characters")
    return row
