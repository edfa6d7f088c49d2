"""R12: the time that fsync, SHA-256 and uploads of checkpoints, weights and records take."""

import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import word_tokenizer
from fault_table import Table
from stores import URI, Answer, Request, Send, in_front_of
from transformers import BertConfig, BertModel

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.working_copy import WorkingCopy
from mlflow_setup.schema import Identity, Outcome
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.data.synthetic import write_sample
from trainable.training.train import train

NUM_ROWS = 27_416
"""Rows of the course's three training files: those of the promised epoch."""
MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30_522,
}


class Timed:
    """A function with the seconds spent in it, and the part of them in the main thread."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds, self.waited = call, 0.0, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.call(*args, **options)
        finally:
            seconds = time.perf_counter() - start
            self.seconds += seconds
            if threading.current_thread() is threading.main_thread():
                self.waited += seconds


@pytest.fixture
def seconds_and_factor(tmp_path: Path) -> Callable[..., tuple[float, float]]:
    """A function that trains on fewer rows than the promised epoch has. It returns an epoch's
    seconds and the ratio of the numbers of rows: training time is proportional to them, while the
    size of the files is constant."""
    write_sample(tmp_path / "data", num_train=400, num_dev=100)
    words = {word for path in (tmp_path / "data").iterdir() for word in path.read_text().split()}
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: number for number, word in enumerate((*specials, *sorted(words)))}
    word_tokenizer(vocabulary).save_pretrained(tmp_path / "encoder")
    BertModel(BertConfig(**MINILM)).save_pretrained(tmp_path / "encoder")
    sets = (f"data.dir={tmp_path / 'data'}", f"model.encoder={tmp_path / 'encoder'}")

    def run(folder: Path, num_epochs: int = 1, **hooks: Any) -> tuple[float, float]:
        sets_here = (*sets, f"train.num_epochs={num_epochs}", "pretrain.enabled=false")
        config = resolve("b3", sets_here, {}).config
        start = time.perf_counter()
        ended = train(config, folder, identity=Identity("t", None, "b3", {}), **hooks)
        seconds = (time.perf_counter() - start) / num_epochs
        assert ended.outcome is Outcome.FINISHED
        num_rows = sum(len(rows) for rows in read_dataset(config).train.values())
        return seconds, NUM_ROWS / num_rows

    return run


@pytest.mark.rare("test_storage_faults.py saves and damages checkpoints")
@pytest.mark.promise(
    "R12",
    "fsync and SHA-256 of checkpoints, weights, predictions and records, an encoder of 22 M "
    "parameters",
    "at most 2 % of an epoch over 27,416 rows",
)
def test_r12_cost_of_fsync_and_sha256(
    tmp_path: Path,
    seconds_and_factor: Callable[..., tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
    table: Table,
) -> None:
    fsync, digest = Timed(os.fsync), Timed(hashlib.file_digest)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(hashlib, "file_digest", digest)
    seconds, factor = seconds_and_factor(tmp_path / "trial")
    disk = fsync.seconds + digest.seconds
    assert min(fsync.seconds, digest.seconds) > 0
    epoch = (seconds - disk) * factor
    table.measured("of an epoch", [100 * disk / (epoch + disk)], unit="%", within=2)


@pytest.mark.rare("test_working_copy.py checks uploads to a store in memory")
@pytest.mark.promise(
    "R12",
    "object store: the same files are uploaded, with 5 ms a request",
    "a trial waits at most 2 % of an epoch over 27,416 rows, the last's uploads included",
)
def test_r12_cost_of_uploads(
    seconds_and_factor: Callable[..., tuple[float, float]],
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    table: Table,
) -> None:
    """Includes the processor time of moto, which emulates S3 on the same machine."""
    requests: list[tuple[str, int]] = []

    def delayed(request: Request, send: Send) -> Answer:
        requests.append((request.method, len(request.body)))
        time.sleep(0.005)
        return send(request)

    num_epochs, waits, reports = 2, dict[str, Timed](), list[float]()
    with in_front_of(s3["AWS_ENDPOINT_URL"], delayed, at_once=True) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        folder, calls = storage_folder(URI), dict[str, Timed]()
        for kind, names, timed in (
            (ObjectStore, ("put", "copy", "delete", "entries", "entry", "download"), calls),
            (WorkingCopy, ("publish", "withdraw", "settle"), waits),
        ):
            for name in names:
                timed[name] = Timed(getattr(kind, name))
                monkeypatch.setattr(kind, name, functools.partialmethod(timed[name]))

        def waited() -> float:
            return sum(call.waited for call in waits.values())

        trial = folder / "s" / "trials" / "0001"
        report = lambda _: reports.append(waited())  # noqa: E731
        seconds, factor = seconds_and_factor(trial, num_epochs, report=report)
        uploads = sum(call.seconds for call in calls.values()) / num_epochs
        num_requests, start, num_records = len(requests), time.perf_counter(), 50
        for number in range(num_records):
            write_atomic(folder / "s" / "records" / f"{number}.json", "x" * 2000)
        record = (time.perf_counter() - start) / num_records
    epoch = (seconds - reports[-1] / num_epochs) * factor
    table.measured("of an epoch", [100 * reports[-1] / num_epochs / epoch], unit="%", within=2)
    table.measured("waited between epochs", [reports[0]])
    table.measured("waited after the last", [reports[-1] - reports[0]])
    table.measured("an epoch's uploads took", [uploads])
    table.measured(
        "they were",
        [sum(size for _, size in requests[:num_requests]) / 1e6 / num_epochs],
        unit="MB",
    )
    table.measured("one small record", [1000 * record], unit="ms")
