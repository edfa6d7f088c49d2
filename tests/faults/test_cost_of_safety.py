"""R12: what it costs that checkpoints, weights and records are on disk and have their SHA-256."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import word_tokenizer
from fault_table import Table
from transformers import BertConfig, BertModel

from mlflow_setup.schema import Identity, Outcome
from trainable.config.recipe import resolve
from trainable.data.dataset import read_dataset
from trainable.data.synthetic import write_sample
from trainable.training.train import train

NUM_ROWS = 27_416
"""Of the course's three training files: the epoch that the promise is about."""
MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30_522,
}


class Timed:
    """A function, and the seconds that were spent in it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.call(*args, **options)
        finally:
            self.seconds += time.perf_counter() - start


@pytest.mark.rare("test_storage_faults.py saves and damages checkpoints")
@pytest.mark.promise(
    "R12",
    "fsync and SHA-256 of checkpoints, weights, predictions and records, an encoder of 22 M "
    "parameters",
    "at most 2 % of an epoch over 27,416 rows",
)
def test_r12_what_fsync_and_sha256_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    """Rows are trained on as fast for a part of them; the disk's part does not depend on them."""
    write_sample(tmp_path / "data", num_train=400, num_dev=100)
    words = {word for path in (tmp_path / "data").iterdir() for word in path.read_text().split()}
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: number for number, word in enumerate((*specials, *sorted(words)))}
    word_tokenizer(vocabulary).save_pretrained(tmp_path / "encoder")
    BertModel(BertConfig(**MINILM)).save_pretrained(tmp_path / "encoder")
    sets = (f"data.dir={tmp_path / 'data'}", f"model.encoder={tmp_path / 'encoder'}")
    config = resolve("b3", [*sets, "train.num_epochs=1", "pretrain.enabled=false"], {}).config
    fsync, digest = Timed(os.fsync), Timed(hashlib.file_digest)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(hashlib, "file_digest", digest)
    start = time.perf_counter()
    ended = train(config, tmp_path / "trial", identity=Identity("t", None, "b3", {}))
    seconds, disk = time.perf_counter() - start, fsync.seconds + digest.seconds
    assert ended.outcome is Outcome.FINISHED
    assert min(fsync.seconds, digest.seconds) > 0
    num_rows = sum(len(rows) for rows in read_dataset(config).train.values())
    epoch = (seconds - disk) / num_rows * NUM_ROWS
    table.measured("of an epoch", [100 * disk / (epoch + disk)], unit="%", within=2)
