"""Ray Serve in front of a bundle: the answers and the limits are those of `ensweep serve`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from scoring import ask, serving

from ensemble.inference.ensemble import Ensemble
from ensemble.serving.ray_serve import Replica, serve_on_ray
from mlflow_setup.errors import ConfigError, IntegrityError

pytest.importorskip("grpc_reflection", reason="Ray Serve is not installed: ensweep[serve]")

pytestmark = pytest.mark.slow

MAX_BYTES = 50_000


@pytest.fixture(scope="module")
def port(tiny_bundle: Path) -> Iterator[int]:
    with serving(tiny_bundle, "--ray", "--max-bytes", str(MAX_BYTES), "--max-rows", "5") as found:
        yield found[0]


def test_it_answers_as_the_bundle_does(port: int, tiny_bundle: Path) -> None:
    rows = [{"sentence": "the film is good and warm"}, {"sentence": "a dull joke"}]
    status, body = ask(port, "POST", "/invocations", {"dataframe_records": rows})
    assert status == 200, body
    expected = Ensemble.load(tiny_bundle).predict(pd.DataFrame(rows), "sentiment")
    found = json.loads(body)["predictions"]
    assert [pytest.approx(row, abs=1e-5) for row in expected.to_dict("records")] == found
    assert ask(port, "GET", "/ping")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/invocations", b"{", 400, "the body is not JSON"),
        ("/invocations", {"instances": [{"sentence": " "}]}, 400, "row 1: sentence is empty"),
        ("/invocations", {"instances": [{"sentence": "a"}] * 6}, 400, "6 rows"),
        ("/invocations", b" " * (MAX_BYTES + 1), 413, f"longer than {MAX_BYTES} bytes"),
        ("/docs", b"{}", 404, "the paths are /invocations"),
    ],
)
def test_what_cannot_be_answered_is_told_why(
    port: int, path: str, body: object, status: int, message: str
) -> None:
    found, answer = ask(port, "POST", path, body)
    assert found == status
    assert message in json.loads(answer)["message"]


def test_a_replica_takes_only_the_bundle_that_was_meant(tiny_bundle: Path) -> None:
    replica = Replica(tiny_bundle, "0" * 64, 64, "fp32", MAX_BYTES, 5)
    with pytest.raises(IntegrityError, match="is another bundle on"):
        replica.application()


def test_without_ray_serve_it_is_said(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.delattr("ray.serve", raising=False)
    replica = Replica(tiny_bundle, "0" * 64, 64, "fp32", MAX_BYTES, 5)
    with pytest.raises(ConfigError, match="Ray Serve is not installed"):
        serve_on_ray(replica, "127.0.0.1", 0, 1, lambda host, port: None)
