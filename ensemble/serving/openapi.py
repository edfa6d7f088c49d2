"""What a served bundle takes and gives, for programs that ask: a document of OpenAPI 3.1, whose
schemas are JSON Schema (https://spec.openapis.org/oas/v3.1.0)."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ensemble.serving.interface import MAX_CHARACTERS, interface
from mlflow_setup.models.registry import TASK_PARAM
from mlflow_setup.models.scoring_server import INVOCATIONS, STATE
from trainable.config.tasks import Output, Task

_TYPES = {"string": "string", "long": "integer", "double": "number"}
"""MLflow's data types in JSON Schema."""
_FORMATS = "dataframe_split, instances and inputs, MLflow's other formats, are taken likewise."


def openapi(tasks: Mapping[str, Task], max_rows: int) -> dict[str, Any]:
    """The document: for each task its columns, how many rows, its labels, what they rest on."""
    asked = [_request(name, task, max_rows, len(tasks) > 1) for name, task in tasks.items()]
    given = [_answer(name, task) for name, task in tasks.items()]
    problem = {"properties": {"error_code": {"type": "string"}, "message": {"type": "string"}}}
    ask = {
        "summary": "Label rows.",
        "description": _FORMATS,
        "requestBody": {"required": True, "content": _json({"anyOf": asked})},
        "responses": {
            "200": {"description": "A row for each row.", "content": _json({"anyOf": given})},
            "default": {"description": "Why there is no answer.", "content": _json(problem)},
        },
    }
    well = {"get": {"responses": {"200": {"description": "The server is well."}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": ", ".join(tasks), "version": version("ensweep")},
        "paths": {INVOCATIONS: {"post": ask}, **dict.fromkeys(STATE, well)},
    }


def _request(name: str, task: Task, max_rows: int, is_one_of_many: bool) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
    columns = list(task.columns.sentences)
    row = {"type": "object", "properties": dict.fromkeys(columns, text), "required": columns}
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}
    params = {"type": "object", "properties": {TASK_PARAM: {"const": name}}}
    return {
        "title": f"{name}: {task.kind}",
        "type": "object",
        "properties": {"dataframe_records": rows, "params": params},
        "required": ["dataframe_records", *(["params"] if is_one_of_many else [])],
    }


def _answer(name: str, task: Task) -> dict[str, Any]:
    outputs = interface({name: task}).outputs
    columns: dict[str, Any] = {column: {"type": _TYPES[what]} for column, what in outputs.items()}
    if task.kind.output in (Output.CLASSES, Output.BINARY):
        columns["label"]["enum"] = [task.show(c) for c in range(task.num_classes)]
    row = {"type": "object", "properties": columns, "required": list(columns)}
    answers = {"type": "array", "items": row}
    return {"title": name, "type": "object", "properties": {"predictions": answers}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
