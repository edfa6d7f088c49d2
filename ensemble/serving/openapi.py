"""The interface of a served bundle as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0);
its schemas are JSON Schema."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ensemble.serving.interface import MAX_CHARACTERS, interface
from mlflow_setup.models.registry import TASK_PARAM
from mlflow_setup.models.scoring_server import INVOCATIONS, STATE
from trainable.config.tasks import Output, Task

_TYPES = {"string": "string", "long": "integer", "double": "number"}
"""MLflow's data types in JSON Schema."""
_FORMATS = "MLflow's other formats are accepted too: dataframe_split, instances and inputs."


def openapi(tasks: Mapping[str, Task], max_rows: int) -> dict[str, Any]:
    """Return the document: for each task its columns, number of rows, labels and probabilities."""
    requests = [_request(name, task, max_rows, len(tasks) > 1) for name, task in tasks.items()]
    responses = [_response(name, task) for name, task in tasks.items()]
    error = {"properties": {"error_code": {"type": "string"}, "message": {"type": "string"}}}
    invocation = {
        "summary": "Label rows.",
        "description": _FORMATS,
        "requestBody": {"required": True, "content": _json({"anyOf": requests})},
        "responses": {
            "200": {
                "description": "A prediction for each row.",
                "content": _json({"anyOf": responses}),
            },
            "default": {"description": "An error.", "content": _json(error)},
        },
    }
    state = {"get": {"responses": {"200": {"description": "The server is running."}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": ", ".join(tasks), "version": version("ensweep")},
        "paths": {INVOCATIONS: {"post": invocation}, **dict.fromkeys(STATE, state)},
    }


def _request(name: str, task: Task, max_rows: int, needs_task: bool) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
    columns = list(task.columns.sentences)
    row = {"type": "object", "properties": dict.fromkeys(columns, text), "required": columns}
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}
    params = {"type": "object", "properties": {TASK_PARAM: {"const": name}}}
    return {
        "title": f"{name}: {task.kind}",
        "type": "object",
        "properties": {"dataframe_records": rows, "params": params},
        "required": ["dataframe_records", *(["params"] if needs_task else [])],
    }


def _response(name: str, task: Task) -> dict[str, Any]:
    outputs = interface({name: task}).outputs
    columns: dict[str, Any] = {column: {"type": _TYPES[type_]} for column, type_ in outputs.items()}
    if task.kind.output in (Output.CLASSES, Output.BINARY):
        columns["label"]["enum"] = [task.show(c) for c in range(task.num_classes)]
    row = {"type": "object", "properties": columns, "required": list(columns)}
    rows = {"type": "array", "items": row}
    return {"title": name, "type": "object", "properties": {"predictions": rows}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
