"""Bundles written to and read from a storage URI."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from obstore.store import LocalStore
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem import object_store, storage

URI = "s3://bucket/bundles/mine"


def invoke(*words: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_bundle_at_a_storage_uri(
    tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_locally(uri: str, *_: Any) -> LocalStore:
        place = urlsplit(uri)
        return LocalStore(tmp_path / place.netloc / place.path.strip("/"), mkdir=True)

    monkeypatch.setattr(object_store, "_open", open_locally)
    monkeypatch.setattr(storage, "_working_copies", {})
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    words = ["export", "--storage", tiny_runs, "--output"]
    content = json.loads(invoke(*words, URI, "--json"))
    assert content["folder"] == URI
    bundle = tmp_path / "bucket" / "bundles" / "mine"
    assert content["num_bytes"] == sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.parent.name for path in cached} <= {"speeds"}  # nothing of the bundle
    predict = ["predict", URI, "--task", "sentiment", "--text", "a warm film", "--json"]
    invoke(*words, tmp_path / "local")
    assert invoke(*predict) == invoke(predict[0], tmp_path / "local", *predict[2:])
    with pytest.raises(ConfigError, match=f"{URI} is there already"):
        invoke(*words, URI)
    with pytest.raises(ConfigError, match="s3://bucket: not the URI of a file"):
        invoke(*words, "s3://bucket")
    (bundle / "manifest.json").unlink()  # as after an incomplete upload
    with pytest.raises(IntegrityError, match=r"manifest\.json is missing"):
        invoke("verify", URI)
