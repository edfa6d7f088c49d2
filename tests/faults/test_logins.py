"""S6, R6: the services of deploy/compose.yaml, run as processes: logins, and a database outage."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from compose import HOST, ROOT, Services
from drivers import assert_whole
from fault_table import Table
from real_sweep import end, ensweep, sweep_file, wait_for_epochs

from mlflow_setup.runs.query import find_trials
from mlflow_setup.tracking.store import Tracking

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("test_compose.py checks the file, test_store.py an answer of 401"),
]

PUBLIC = re.compile(r"/(health|version|favicon\.ico|static[^/]*/.*)$|.*/mlflow/server-info$")
"""Routes without a login: health, version, static files, and the kind of server."""
REFUSED = (401, 403)
SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    services = Services()
    try:
        services.start()
        yield services
    finally:
        services.end()


@pytest.mark.promise(
    "S6", "requests to each route of the MLflow server without a login", "refused: 401, 403"
)
def test_s6_each_route_requires_a_login(services: Services, table: Table) -> None:
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "mlflow_routes.py")]
    environment = services.environment("mlflow")
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
    listed = [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]
    routes = [(method, path) for method, path in listed if method not in ("HEAD", "OPTIONS")]
    assert len(routes) > 300
    assert any("/gateway/" in path for _, path in routes)  # of FastAPI
    assert any(path.endswith("/mlflow/runs/search") for _, path in routes)  # of Flask
    answers = {}
    for method, path in routes:
        if not PUBLIC.match(path):
            filled = re.sub(r"<[^>]*>|\{[^}]*\}", "x", path)
            answers[method, path] = services.status(method, filled, body=b"{}")
    table.played(len(answers))
    assert {route: code for route, code in answers.items() if code not in REFUSED} == {}
    assert services.status("POST", SEARCH, body=b'{"max_results": 1}') == 401
    wrong = "Basic eDp4"
    assert services.status("POST", SEARCH, body=b"{}", Authorization=wrong) == 401
    login = services.authorization
    assert services.status("POST", SEARCH, body=b'{"max_results": 1}', Authorization=login) == 200


@pytest.mark.promise(
    "S6",
    "foreign Host and Origin headers, with a login",
    "refused: 403; open routes reveal nothing",
)
def test_s6_foreign_hosts_and_origins_are_refused(services: Services, table: Table) -> None:
    login, body = services.authorization, b'{"max_results": 1}'
    hosts = ("evil.example", f"{HOST}.evil.example", "10.0.0.7", "[::1]")
    origins = (f"http://{HOST}", f"https://{HOST}.evil.example", "https://evil.example", "null")
    table.played(len(hosts) + len(origins))
    for host in hosts:
        assert services.status("POST", SEARCH, host, body, Authorization=login) == 403, host
    for origin in origins:
        headers = {"Authorization": login, "Origin": origin}
        assert services.status("POST", SEARCH, HOST, body, **headers) == 403, origin
    headers = {"Authorization": login, "Origin": f"https://{HOST}"}
    assert services.status("POST", SEARCH, HOST, body, **headers) == 200
    info = services.answer("GET", "/api/3.0/mlflow/server-info")[1]
    assert "canary" not in info
    assert "127.0.0.1" not in info


@pytest.mark.promise(
    "S6", "a version of a model whose source is a file, a store, another server", "refused"
)
def test_s6_models_from_other_sources_are_refused(services: Services, table: Table) -> None:
    def create(resource: str, **content: str) -> tuple[int, str]:
        path, body = f"/api/2.0/mlflow/{resource}/create", json.dumps(content).encode()
        return services.answer("POST", path, body=body, Authorization=services.authorization)

    assert create("registered-models", name="m")[0] == 200
    sources = ("file:///etc", "/etc", "s3://mlflow/0", "http://evil.example/x", "runs:/x")
    table.played(len(sources))
    for source in sources:
        code, text = create("model-versions", name="m", source=source)
        assert code == 400, (source, text)


@pytest.mark.promise(
    "R6",
    "PostgreSQL below an MLflow server with logins is killed in the middle of a sweep (tiny BERT, "
    "artifacts in an S3 store), and started again",
    "whole, if need be after `ensweep sync`, run twice: no point and no file missing or double",
)
def test_r6_a_sweep_continues_during_a_database_outage(
    services: Services,
    tmp_path: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in services.login.items():
        monkeypatch.setenv(name, value)
    file, storage = sweep_file(tmp_path, tiny_encoder, tiny_data), tmp_path / "runs"
    content = yaml.safe_load(file.read_text())
    content["first_trials"].append({**content["first_trials"][0], "seed": 3})
    content["search"]["num_samples"] = 4
    file.write_text(yaml.safe_dump(content))
    options = ["--storage", str(storage), "--tracking-uri", services.uri]
    driver = ensweep("sweep", str(file), "--name", "s", *options)
    wait_for_epochs(tmp_path, 6, driver)
    services.kill_database()
    wait_for_epochs(tmp_path, 14, driver)
    services.start_database()
    text = driver.communicate(timeout=500)[0]
    assert driver.returncode in (0, 4), text
    for _ in range(2):
        end(ensweep("sync", "s", *options))
    tracking = Tracking(services.uri)
    assert_whole(tmp_path, 4, tracking, num_epochs=6, is_pretended=False)
    for run in find_trials(tracking, "s"):
        files = tracking.client.list_artifacts(run.run_id, "predictions")
        assert len(files) == 6, run.trial
