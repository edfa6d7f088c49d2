"""Requests: all formats give the same columns, and invalid ones are refused with a reason."""

import json
import threading
import time
from typing import Any, cast

import pandas as pd
import pytest

from ensemble.inference.ensemble import Ensemble
from ensemble.serving.interface import MAX_CHARACTERS, interface
from ensemble.serving.service import Service
from mlflow_setup.errors import DataError, EnsweepError
from trainable.config.tasks import PAPER_TASKS, Task


class Stub:
    """An ensemble whose label of a sentence is its length."""

    batch_size = 2

    def __init__(self, *names: str) -> None:
        self.tasks: dict[str, Task] = {name: PAPER_TASKS[name] for name in names}

    def predict(self, frame: pd.DataFrame, task: str) -> pd.DataFrame:
        first = self.tasks[task].columns.sentences[0]
        return pd.DataFrame({"label": [len(sentence) for sentence in frame[first]]})


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(cast(Ensemble, Stub("sentiment", "paraphrase")), max_rows=3)


ROW, PAIR = {"sentence": "a good film"}, {"sentence1": "one", "sentence2": "two"}


@pytest.mark.parametrize(
    ("request_", "task", "data"),
    [
        ({"dataframe_records": [ROW]}, "sentiment", [["a good film"]]),
        ({"instances": [ROW, ROW]}, "sentiment", [["a good film"]] * 2),
        ({"inputs": {"sentence": "one"}}, "sentiment", [["one"]]),
        ({"inputs": {"sentence": ["one", " two "]}}, "sentiment", [["one"], ["two"]]),
        ({"inputs": [PAIR]}, "paraphrase", [["one", "two"]]),
        (
            {"dataframe_split": {"columns": ["sentence2", "sentence1"], "data": [["2", "1"]]}},
            "paraphrase",
            [["1", "2"]],
        ),
        ({"dataframe_records": [{**ROW, "more": 5}]}, "sentiment", [["a good film"]]),
        ({"dataframe_records": [ROW], "params": {"task": None}}, "sentiment", [["a good film"]]),
        (
            {"dataframe_records": [ROW | PAIR], "params": {"task": "paraphrase"}},
            "paraphrase",
            [["one", "two"]],
        ),
        ({"instances": [{"sentence": "x" * MAX_CHARACTERS}]}, "sentiment", [["x" * 10_000]]),
        ({"instances": [{"sentence": "\0 漢 🎬"}]}, "sentiment", [["\0 漢 🎬"]]),
    ],
)
def test_every_request_format_gives_the_same_columns(
    service: Service, request_: dict[str, Any], task: str, data: list[list[str]]
) -> None:
    body = json.dumps(request_).encode()
    rows, name = service.check(body)
    assert name == task
    assert list(rows.columns) == list(PAPER_TASKS[task].columns.sentences)
    assert rows.to_numpy().tolist() == data
    labels = [{"label": len(row[0])} for row in data]
    assert json.loads(service.answer(body)) == {"predictions": labels}


def _records(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"dataframe_records": list(rows), **more}).encode()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "must have exactly one of dataframe_records"),
        (b'{"inputs": [], "instances": []}', "must have exactly one of dataframe_records"),
        (_records(ROW, more=1), "must have exactly one of dataframe_records"),
        (_records(), "not a list of rows"),
        (_records("text"), "a row is not an object"),
        (_records(None), "a row is not an object"),
        (_records(ROW, params=[]), "params may only hold 'task'"),
        (_records(ROW, params={"x": 1}), "params may only hold 'task'"),
        (_records(ROW, params={"task": 1}), "task is 1, not a name"),
        (_records(ROW, params={"task": "none"}), "no task 'none'; there are sentiment, paraphrase"),
        (_records(ROW, params={"task": "paraphrase"}), "no column sentence1, sentence2"),
        (_records({"x": "y"}), "the task is not clear"),
        (_records(ROW | PAIR), "the task is not clear"),
        (_records(*[ROW] * 4), "4 rows, a request may have 1 to 3"),
        (_records({"sentence": 5}), "row 1: sentence is 5, not text"),
        (_records(ROW, {"sentence": None}), "row 2: sentence is None, not text"),
        (_records(ROW, PAIR), "row 2: sentence is None, not text"),
        (_records({"sentence": " "}), "row 1: sentence is empty"),
        (_records({"sentence": ["a"]}), "not text"),
        (_records({"sentence": "x" * (MAX_CHARACTERS + 1)}), "longer than 10000 characters"),
        (b'{"inputs": {"sentence": "\\ud800"}}', "not Unicode text"),
        (b'{"inputs": {"sentence": 5}}', "a column is not a list"),
        (b'{"inputs": {"sentence": []}}', "0 rows"),
        (b'{"inputs": {}}', "the task is not clear"),
        (b'{"inputs": {"sentence1": ["a"], "sentence2": []}}', "columns differ in length"),
        (b'{"dataframe_split": []}', "not an object with columns and data"),
        (b'{"dataframe_split": {"columns": [1], "data": []}}', "not a list of names"),
        (b'{"dataframe_split": {"columns": ["sentence"], "data": 1}}', "not a list of rows"),
        (b'{"dataframe_split": {"columns": ["sentence"], "data": [[]]}}', "row 1 is not a list"),
        (b'{"dataframe_split": {"columns": ["sentence"], "data": ["a"]}}', "row 1 is not a list"),
    ],
)
def test_invalid_requests_are_refused_with_a_reason(
    service: Service, body: bytes, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        service.check(body)
    with pytest.raises(DataError, match=problem):
        service.answer(body)


@pytest.mark.parametrize(
    "rows",
    [[{"sentence": "x" * 10_001}], [{"sentence": None}], [ROW] * 4, [{"other": "x"}]],
)
def test_predict_checks_rows_too(service: Service, rows: list[dict[str, Any]]) -> None:
    """For servers that do not call `check`."""
    with pytest.raises(EnsweepError):
        service.predict(pd.DataFrame(rows))
    assert service.predict(pd.DataFrame([ROW]))["label"].tolist() == [11]


def test_the_interface_covers_all_tasks() -> None:
    found = interface({name: PAPER_TASKS[name] for name in ("paraphrase", "sentiment")})
    assert found.columns == ("sentence1", "sentence2", "sentence")
    assert list(found.outputs) == ["label", "probability", *(f"probability_{c}" for c in range(5))]
    assert found.outputs["label"] == "long"
    assert interface({"s": PAPER_TASKS["similarity"]}).outputs == {"label": "double"}
    assert found.task == "paraphrase"
    assert list(found.example[0]) == ["sentence1", "sentence2"]


def test_a_request_need_not_name_the_only_task() -> None:
    service = Service(cast(Ensemble, Stub("similarity")))
    assert service.check(_records(PAIR))[1] == "similarity"


class Slow(Stub):
    """Takes some time for each batch, and counts batches."""

    def __init__(self, seconds: float) -> None:
        super().__init__("sentiment")
        self.seconds, self.num_batches = seconds, 0

    def predict(self, frame: pd.DataFrame, task: str) -> pd.DataFrame:
        self.num_batches += 1
        time.sleep(self.seconds)
        return super().predict(frame, task)


def test_a_request_that_takes_too_long_ends_after_its_batch() -> None:
    """Its thread is still running when the server responds with 504, and blocks later requests."""
    slow = Slow(0.1)
    service = Service(cast(Ensemble, slow), max_seconds=0.05)
    frame = pd.DataFrame({"sentence": ["a"] * 100})
    with pytest.raises(TimeoutError, match="it took too long"):
        service.predict(frame, None)
    assert slow.num_batches == 1
    assert list(service.predict(frame[:2], None)["label"]) == [1, 1]


def test_a_request_waits_for_a_limited_time_for_those_before_it() -> None:
    slow = Slow(1.0)
    service = Service(cast(Ensemble, slow), max_seconds=0.05)
    frame = pd.DataFrame({"sentence": ["a"]})
    before = threading.Thread(target=service.predict, args=(frame, None))
    before.start()
    while not slow.num_batches:
        time.sleep(0.001)
    with pytest.raises(TimeoutError, match="the requests before it took too long"):
        service.predict(frame, None)
    before.join()
    assert slow.num_batches == 1


def test_batches_are_joined_in_order() -> None:
    service = Service(cast(Ensemble, Stub("sentiment")))
    frame = pd.DataFrame({"sentence": ["a" * length for length in range(1, 6)]})
    found = service.predict(frame, None)
    assert list(found["label"]) == [1, 2, 3, 4, 5]
    assert list(found.index) == [0, 1, 2, 3, 4]
