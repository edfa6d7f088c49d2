"""Registered models downloaded from a fake MLflow server."""

import shutil
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.manifest import write_manifest
from mlflow_setup.models.registry import Interface, ModelSource, fetch_bundle, log_model
from mlflow_setup.runs.ensemble_runs import log_ensemble
from mlflow_setup.tracking.store import resolve_tracking


class RemoteServer:
    """A fake tracking server whose registry has one model."""

    uri = "http://remote"
    errors = staticmethod(nullcontext)

    @property
    def client(self) -> "RemoteServer":
        return self

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        return f"mlflow-artifacts:/{name}/{version}"


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs of downloads, each of which is slow enough to overlap with others."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights").write_text("w")
    write_manifest(bundle, {"format": "x"})
    downloads: list[str] = []
    waiting = threading.Event()

    def download(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        downloads.append(artifact_uri)
        waiting.wait(0.2)
        return str(shutil.copytree(bundle, Path(dst_path) / "bundle"))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    return downloads


def fetch(cache: Path) -> Path:
    server: Any = RemoteServer()
    return fetch_bundle(server, "models:/mine/1", cache)


def test_concurrent_fetches_download_once(tmp_path: Path, downloads: list[str]) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(tmp_path / "cache"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert (found[0] / "weights").read_text() == "w"
    assert downloads == ["mlflow-artifacts:/mine/1/artifacts/bundle"]


@pytest.mark.parametrize("name", ["weights", "manifest.json"])
def test_a_damaged_copy_is_downloaded_again(
    tmp_path: Path, downloads: list[str], name: str
) -> None:
    folder = fetch(tmp_path / "cache")
    assert fetch(tmp_path / "cache") == folder
    assert len(downloads) == 1
    (folder / name).unlink()
    assert fetch(tmp_path / "cache") == folder
    assert len(downloads) == 2
    assert (folder / "weights").read_text() == "w"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_a_run_whose_model_cannot_be_logged_has_failed(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "ensemble.json").write_text("{}")
    run_id = log_ensemble(tracking, "mine", bundle, {}, {}, {})
    source = ModelSource(bundle, tmp_path / "none.py", [], Interface((), {}, "x", ()))
    with pytest.raises(ConfigError, match="MLflow tracking at sqlite:"):
        log_model(tracking, source, run_id, "mine")
    assert tracking.client.get_run(run_id).info.status == "FAILED"
