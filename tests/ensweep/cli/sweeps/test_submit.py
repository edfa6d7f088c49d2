"""`ensweep submit`: errors that are found before anything is submitted."""

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError

STORAGE = ["--storage", "/mnt/ensweep/runs"]
DATA = ["--data-dir", "/mnt/ensweep/data"]
NO_CLUSTER = ["--address", "http://127.0.0.1:9"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clusterr", *DATA, *STORAGE], "there are cluster, "),
        (["cluster", "optim.Lr=1", *DATA, *STORAGE], "did you mean optim.lr?"),
        (["cluster", *STORAGE], "no data folder\nfix: name the tasks"),
        (["cluster", "--data-dir", "data", *STORAGE], "data.dir data: is a path on this machine"),
        (
            ["cluster", "--data-dir", "s3://b/data", *STORAGE, *NO_CLUSTER],
            "no Ray cluster answers at",
        ),
        (["cluster", "--data-dir", "s3://a:b@b/data", *STORAGE], "credentials would be shown"),
        (["cluster", *DATA], "--storage runs: is a path on this machine"),
        (["cluster", *DATA, *STORAGE, "--name", "a b"], "a b"),
        (["cluster", *DATA, *STORAGE, "--tracking-uri", "http://a:b@c"], "credentials would be"),
        (["cluster", *DATA, *STORAGE, "--address", "ray://head:10001"], "submitted to the dash"),
        (["cluster", *DATA, *STORAGE, *NO_CLUSTER], "no Ray cluster answers at http://127.0.0.1:9"),
    ],
)
def test_errors_are_reported_before_anything_is_submitted(words: list[str], message: str) -> None:
    error = CliRunner().invoke(app, ["submit", *words]).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)
