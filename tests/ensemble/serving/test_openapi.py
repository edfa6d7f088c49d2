"""Schemas of the OpenAPI document, on requests and responses."""

from typing import Any

import jsonschema
import pytest

from ensemble.serving.openapi import openapi
from trainable.config.tasks import PAPER_TASKS, Task

MOODS = ("glad", "angry")
FILES = {"train": "a.csv", "dev": "b.csv"}
TASKS = {
    "paraphrase": PAPER_TASKS["paraphrase"],
    "similarity": PAPER_TASKS["similarity"],
    "mood": Task.model_validate({"kind": "classification", "files": FILES, "labels": MOODS}),
    "tags": Task.model_validate({"kind": "multilabel", "files": FILES, "labels": MOODS}),
}
PAIR = {"sentence1": "one", "sentence2": "two"}
PREDICTIONS: dict[str, dict[str, Any]] = {
    "paraphrase": {"label": 1, "probability": 0.9},
    "similarity": {"label": 4.2},
    "mood": {"label": "glad", "probability_glad": 0.9, "probability_angry": 0.1},
    "tags": {"label": "glad|angry", "probability_glad": 0.9, "probability_angry": 0.8},
}


def _schemas(name: str, *others: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of requests and of responses when these tasks are served."""
    document = openapi({each: TASKS[each] for each in (name, *others)}, max_rows=2)
    assert set(document["paths"]) == {
        *("/invocations", "/ping", "/health", "/version", "/openapi.json")
    }
    operation = document["paths"]["/invocations"]["post"]
    bodies = operation["requestBody"], operation["responses"]["200"]
    return tuple(body["content"]["application/json"]["schema"] for body in bodies)  # type: ignore[return-value]


def _fits(schema: dict[str, Any], value: object) -> bool:
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize("name", TASKS)
def test_schemas_of_each_task_fit_its_requests_and_responses(name: str) -> None:
    request, response = _schemas(name)
    row = PAIR if TASKS[name].kind.is_pair else {"sentence": "one"}
    assert _fits(request, {"dataframe_records": [row, row | {"more": 5}]})
    assert not _fits(request, {"dataframe_records": [row] * 3})
    assert not _fits(request, {"dataframe_records": [dict.fromkeys(row, "")]})
    assert not _fits(request, {"dataframe_records": [{"text": "one"}]})
    assert _fits(response, {"predictions": [PREDICTIONS[name]]})
    without_label = {key: value for key, value in PREDICTIONS[name].items() if key != "label"}
    assert not _fits(response, {"predictions": [without_label]})
    assert not _fits(response, {"predictions": [PREDICTIONS[name] | {"label": ["sad"]}]})


def test_an_unknown_class_does_not_fit_the_schema() -> None:
    _, response = _schemas("mood")
    assert not _fits(response, {"predictions": [PREDICTIONS["mood"] | {"label": "sad"}]})


def test_a_request_names_its_task_if_there_are_several() -> None:
    request, response = _schemas("mood", "paraphrase")
    rows = {"dataframe_records": [{"sentence": "one"}]}
    assert not _fits(request, rows)
    assert _fits(request, rows | {"params": {"task": "mood"}})
    assert not _fits(request, rows | {"params": {"task": "paraphrase"}})
    for name in ("mood", "paraphrase"):
        assert _fits(response, {"predictions": [PREDICTIONS[name]]})
