"""A registered ensemble answers: from the registry, and where only its requirements are."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fresh_environment import make_environment
from ports import free_port
from scoring import ask, plain_server, serving

from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.models.registry import fetch_bundle
from mlflow_setup.tracking.store import Tracking, resolve_tracking

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = "models:/tiny@champion"
REQUESTS: dict[str, list[dict[str, str]]] = {
    "sentiment": [{"sentence": "the film is good and warm"}, {"sentence": "a dull joke"}],
    "paraphrase": [{"sentence1": "how do i learn chess", "sentence2": "can i learn chess well"}],
    "similarity": [{"sentence1": "a slow plot", "sentence2": "the plot is slow"}],
}


@pytest.fixture(scope="module")
def storage(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundle is registered, by the command."""
    folder = tmp_path_factory.mktemp("registry")
    environment = {key: os.environ[key] for key in os.environ if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "ensweep", "register", str(tiny_bundle), "--name", "tiny"]
    done = subprocess.run(
        [*command, "--storage", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "models:/tiny@champion: version 1" in done.stdout
    assert "Traceback" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def tracking(storage: Path) -> Tracking:
    return Tracking(f"sqlite:///{storage / 'mlflow.db'}")


@pytest.fixture(scope="module")
def model(tracking: Tracking, storage: Path) -> Path:
    """The folder of the registered MLflow model."""
    return fetch_bundle(tracking, MODEL, storage / ".cache").parents[1]


@pytest.fixture(scope="module")
def port(storage: Path) -> Iterator[int]:
    options = ("--storage", str(storage), "--tracking-uri", f"sqlite:///{storage / 'mlflow.db'}")
    with serving(MODEL, *options) as (port, _):
        yield port


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> dict[str, list[dict[str, Any]]]:
    """What the bundle itself says to the requests."""
    import pandas as pd

    ensemble = Ensemble.load(tiny_bundle)
    return {
        task: ensemble.predict(pd.DataFrame(rows), task).to_dict("records")
        for task, rows in REQUESTS.items()
    }


def _predictions(answer: tuple[int, str]) -> list[dict[str, float]]:
    status, body = answer
    assert status == 200, body
    found: list[dict[str, float]] = json.loads(body)["predictions"]
    return found


def test_the_model_is_a_run_s_and_holds_no_pickle(tracking: Tracking, model: Path) -> None:
    version = tracking.client.get_model_version_by_alias("tiny", "champion")
    run = tracking.client.get_run(version.run_id)
    assert run.data.tags["kind"] == "ensemble"
    assert {"held_out/sentiment/accuracy", "held_out/similarity/pearson"} <= set(run.data.metrics)
    (logged,) = tracking.client.search_logged_models([run.info.experiment_id])
    assert (logged.source_run_id, logged.status) == (version.run_id, "READY")
    assert logged.artifact_location == version.source
    held_out = {key: v for key, v in run.data.metrics.items() if key.startswith("held_out/")}
    assert {metric.key: metric.value for metric in logged.metrics} == held_out
    of_model = tracking.client.get_registered_model("tiny")
    for described in (version, of_model):
        assert "## Evaluation" in described.description
        assert "library_name" not in described.description  # the hub's block
        assert described.tags["tasks"] == "sentiment,paraphrase,similarity"
        assert described.tags["sweeps"] == "tiny"
    assert run.data.tags["mlflow.note.content"].startswith("# Selective ensemble of sweep tiny")
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".pickle", ".bin")]
    (wheel,) = (model / "artifacts" / "bundle" / "wheel").iterdir()
    lines = (model / "requirements.txt").read_text().split()
    assert f"artifacts/bundle/wheel/{wheel.name}" in lines
    assert all("==" in line or line.endswith(wheel.name) for line in lines)
    assert str(Path.home()) not in (model / "MLmodel").read_text()


@pytest.mark.parametrize("task", REQUESTS)
def test_the_registered_model_answers_as_the_bundle_does(
    port: int, expected: dict[str, list[dict[str, Any]]], task: str
) -> None:
    rows = REQUESTS[task]
    columns = list(rows[0])
    table = {"columns": columns, "data": [list(row.values()) for row in rows]}
    for content in (
        {"dataframe_records": rows},
        {"dataframe_split": table},
        {"instances": rows},
        {"inputs": {column: [row[column] for row in rows] for column in columns}},
    ):
        answer = ask(port, "POST", "/invocations", {**content, "params": {"task": task}})
        assert [pytest.approx(row, abs=1e-5) for row in expected[task]] == _predictions(answer)


def test_the_task_may_be_left_out_where_it_is_clear(port: int) -> None:
    sentiment = {"dataframe_records": REQUESTS["sentiment"]}
    assert len(_predictions(ask(port, "POST", "/invocations", sentiment))) == 2
    pair = {"dataframe_records": REQUESTS["paraphrase"]}
    status, body = ask(port, "POST", "/invocations", pair)
    assert status == 400
    assert "there are sentiment, paraphrase, similarity" in json.loads(body)["message"]


def test_it_says_that_it_is_well(port: int) -> None:
    for path in ("/ping", "/health"):
        assert ask(port, "GET", path) == (200, "\n")
    status, version = ask(port, "GET", "/version")
    assert (status, version.count(".")) == (200, 2)
    status, document = ask(port, "GET", "/openapi.json")
    assert (status, json.loads(document)["openapi"]) == (200, "3.1.0")


def test_it_answers_where_only_its_requirements_are(
    model: Path, expected: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """MLflow's own server in a new environment: our code comes from the model's wheel alone."""
    python = make_environment(tmp_path / "environment", model)
    said = subprocess.run(
        [
            python,
            "-c",
            "import importlib.util as u, mlflow_setup; "
            "print(mlflow_setup.__file__, u.find_spec('optuna'), u.find_spec('ray'))",
        ],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(tmp_path / "environment") in said
    assert said.endswith("None None\n")
    assert str(ROOT) not in said
    port = free_port()
    with plain_server(python, model, port, tmp_path):
        for task, rows in REQUESTS.items():
            request = {"dataframe_records": rows, "params": {"task": task}}
            answer = ask(port, "POST", "/invocations", request)
            assert [pytest.approx(row, abs=1e-5) for row in expected[task]] == _predictions(answer)
        request = {"dataframe_records": REQUESTS["sentiment"], "params": {"task": "none"}}
        status, body = ask(port, "POST", "/invocations", request)
        assert status == 400
        assert "no task 'none'" in body
        assert "Traceback" not in body


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("models:/tiny", "does not name a registered model"),
        ("models:/tiny@none", "alias none not found"),
        ("models:/tiny/7", "not found"),
        ("models:/none@champion", "not found"),
        ("models:/../x@champion", "does not name a registered model"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    tracking: Tracking, tmp_path: Path, uri: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?i){problem}"):
        fetch_bundle(tracking, uri, tmp_path)


def test_a_registered_bundle_that_was_changed_is_not_served(model: Path) -> None:
    path = model / "artifacts" / "bundle" / "README.md"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    try:
        with pytest.raises(IntegrityError, match=r"changed .*README\.md"):
            Ensemble.load(path.parent)
    finally:
        path.write_bytes(whole)


def test_only_a_whole_bundle_is_registered(tmp_path: Path) -> None:
    from ensemble.export.register import register

    with pytest.raises(IntegrityError, match="there is no such folder"):
        register(resolve_tracking(tmp_path), tmp_path / "none", "x")
