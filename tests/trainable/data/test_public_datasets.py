"""Downloads of the public data sets, from a fake server with the hub's protocol."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_setup.errors import ConfigError, DataError
from trainable.config.tasks import PAPER_TASKS
from trainable.data import public_datasets
from trainable.data.dataset import read_directory
from trainable.data.public_datasets import fetch
from trainable.data.readers import read_split

COMMIT = "a" * 40


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def _hub_files() -> dict[str, dict[str, bytes]]:
    """Repository -> file -> content, in the layout of the public data sets."""
    sst = [
        {"text": f"a {word} film", "label": i % 5, "label_text": "x"}
        for i, word in enumerate(["dull", "bad", "fine", "good", "great", 'quoted "tab\there"'])
    ]
    lines = "\n".join(json.dumps(row) for row in sst).encode()
    qqp = [
        {"question1": f"how {i} ?", "question2": f"why {i} ?", "label": i % 2, "idx": i}
        for i in range(6)
    ]
    unlabelled = [{**row, "label": -1} for row in qqp]
    sts = [{"sentence1": f"one {i}", "sentence2": f"two {i}", "score": i / 5} for i in range(6)]
    nli = [{"anchor": f"a {i}", "positive": f"p {i}", "negative": f"n {i}"} for i in range(4)]
    return {
        "SetFit/sst5": {f"{split}.jsonl": lines for split in ("train", "dev", "test")},
        "nyu-mll/glue": {
            "qqp/train-00000-of-00001.parquet": _parquet(qqp),
            "qqp/validation-00000-of-00001.parquet": _parquet(qqp),
            "qqp/test-00000-of-00001.parquet": _parquet(unlabelled),
            "sst2/train-00000-of-00001.parquet": b"never read",
        },
        "sentence-transformers/stsb": {
            f"{split}-00000-of-00001.parquet": _parquet(sts)
            for split in ("train", "validation", "test")
        },
        "sentence-transformers/all-nli": {
            "triplet/train-00000-of-00001.parquet": _parquet(nli),
            "pair/train-00000-of-00001.parquet": _parquet(nli),
        },
    }


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, dict[str, bytes]]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        for repository, files in self.files.items():
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in files.items()
            ]
            if path.startswith(f"api/datasets/{repository}/tree/"):
                return self._send(json.dumps(tree).encode(), "application/json", with_body)
            prefix = f"datasets/{repository}/resolve/"
            if path.startswith(prefix):
                name = path.removeprefix(prefix).partition("/")[2]
                if name in files:
                    return self._send(files[name], "application/octet-stream", with_body)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send(self, content: bytes, kind: str, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def files() -> dict[str, dict[str, bytes]]:
    return _hub_files()


@pytest.fixture
def endpoint(
    files: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_downloaded_data_sets_are_read_without_errors(endpoint: str, tmp_path: Path) -> None:
    written: list[str] = []
    fetch(tmp_path / "data", endpoint, written.append)
    assert len(written) == 10
    errors = [d for d in read_directory(tmp_path / "data", PAPER_TASKS)[1] if d.severity == "error"]
    assert errors == []
    sentiment, _ = read_split("sentiment", PAPER_TASKS["sentiment"], "dev", tmp_path / "data")
    assert sentiment.sentences[0][5] == 'a quoted "tab\there" film'
    assert sentiment.labels is not None
    assert sentiment.labels.tolist() == [0, 1, 2, 3, 4, 0]
    similarity, _ = read_split("similarity", PAPER_TASKS["similarity"], "train", tmp_path / "data")
    assert similarity.labels is not None
    assert similarity.labels.tolist() == [0, 1, 2, 3, 4, 5]
    test, _ = read_split("paraphrase", PAPER_TASKS["paraphrase"], "test", tmp_path / "data")
    assert test.labels is None
    nli, _ = read_split("nli", PAPER_TASKS["nli"], "train", tmp_path / "data")
    assert nli.contradictions is not None
    assert sorted(nli.contradictions) == ["n 0", "n 1", "n 2", "n 3"]


def test_the_subset_of_allnli_is_a_seeded_sample_of_all_rows(
    endpoint: str,
    files: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first rows all come from one of its two sources."""
    rows = [{"anchor": f"a {i}", "positive": f"p {i}", "negative": "n"} for i in range(60)]
    files["sentence-transformers/all-nli"]["triplet/train-00000-of-00001.parquet"] = _parquet(rows)
    monkeypatch.setattr(public_datasets, "NUM_NLI_ROWS", 20)
    drawn = []
    for name in ("one", "two"):
        fetch(tmp_path / name, endpoint)
        nli, _ = read_split("nli", PAPER_TASKS["nli"], "train", tmp_path / name)
        drawn.append([int(anchor.split()[1]) for anchor in nli.sentences[0]])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 20
    assert max(drawn[0]) > 40
    assert drawn[0] != sorted(drawn[0])


def test_a_missing_column_is_an_error(
    endpoint: str, files: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    files["SetFit/sst5"]["train.jsonl"] = b'{"sentence": "a film", "label": 1}\n'
    with pytest.raises(DataError, match=r"SetFit/sst5/train\.jsonl: a row has no text; .*sentence"):
        fetch(tmp_path / "data", endpoint)


def test_a_missing_file_is_an_error(
    endpoint: str, files: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    del files["nyu-mll/glue"]["qqp/validation-00000-of-00001.parquet"]
    with pytest.raises(DataError, match=r"nyu-mll/glue: no qqp/\*validation\*"):
        fetch(tmp_path / "data", endpoint)


def test_a_failed_download_suggests_to_check_the_network(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SetFit/sst5: cannot be downloaded") as caught:
        fetch(tmp_path / "data", "http://127.0.0.1:1")
    assert "network" in (caught.value.fix or "")


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("x")
    with pytest.raises(ConfigError, match="is there already"):
        fetch(tmp_path)
