"""R9, R10: a kill while a checkpoint is uploaded does not lose the saved ones.

moto emulates S3, azurite emulates Azure.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from drivers import ROOT
from fault_table import Table
from scale import how_often
from stores import Answer, Request, Send, Served, in_front_of

from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.storage import storage_of
from trainable.storage.checkpoint import load_newest, save_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("tests/mlflow_setup/filesystem/test_working_copy.py, in memory"),
]

SAVE = """
import sys
import torch
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.storage import storage_of
from trainable.storage.checkpoint import save_checkpoint
uri, first, end, size = sys.argv[1], *map(int, sys.argv[2:])
folder = storage_folder(uri, "scratch") / "t" / "checkpoint"
storage_of(folder).pull(folder, "*/manifest.json")
print("ready", flush=True)
sys.stdin.readline()
for step in range(first, end):
    save_checkpoint(folder, step, {"step": step, "weights": torch.full((size,), float(step))})
    print(step, flush=True)
"""


def saver(cache: Path, uri: str, first: int, end: int, size: int) -> subprocess.Popen[str]:
    """A process that saves checkpoints of `size` values once it reads a line from stdin, and prints
    each saved step."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE, uri, str(first), str(end), str(size)],
        env={**os.environ, "ENSWEEP_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def loaded_by(machine: str, uri: str) -> int:
    """The step of the checkpoint that another machine would resume from, which must be complete;
    0: none."""
    folder = storage_folder(uri, machine) / "t" / "checkpoint"
    storage_of(folder).pull(folder, "*/manifest.json")
    found = load_newest(folder)
    assert not (folder / "quarantine").exists()  # partial uploads are invisible
    if found is None:
        return 0
    step, state = found
    assert state["step"] == step
    assert bool((state["weights"] == step).all())
    return step


@pytest.mark.promise(
    "R10",
    "object store: SIGKILL during the upload of a checkpoint",
    "the newest one in the store is complete",
)
def test_r10_a_kill_while_uploading_keeps_saved_checkpoints(
    tmp_path: Path, s3: dict[str, str], table: Table
) -> None:
    draw, num_kills = random.Random(0), how_often(20, 200)
    for kill in range(num_kills):
        uri = f"s3://bucket/r10-{kill}"
        process = saver(tmp_path / f"cache-{kill}", uri, 1, 10_000, 50_000)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(draw.uniform(0, 1))
        process.kill()
        saved = [int(line) for line in process.communicate()[0].split()]
        assert loaded_by("other", uri) >= max(saved, default=0)
    table.played(num_kills)


class LastWrite:
    """A response function of a proxy that kills the process at a chosen write request."""

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None  # the number of the write at which it kills
        self.is_done = True  # whether that write reaches the store
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, request: Request, send: Send) -> Answer:
        self.count += request.method in ("PUT", "POST", "DELETE")
        if self.last is None or self.count < self.last:
            return send(request)
        if self.count == self.last and self.is_done:
            send(request)
        assert self.process is not None
        self.process.kill()
        raise ConnectionAbortedError


@pytest.mark.promise(
    "R9",
    "object store: the process is killed at each write of a checkpoint's upload in turn "
    "(parts, manifest, removal of an older one), before or after it",
    "the old or the new one loads on another machine, never a mixture; so does the next save",
)
def test_r9_a_kill_at_any_write_of_an_upload_leaves_old_or_new(
    tmp_path: Path, store: Served, monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    writes, found = LastWrite(), list[int]()

    def save_until(uri: str, last: int | None, *, is_done: bool = True) -> None:
        for step in (1, 2):
            folder = storage_folder(uri, "before") / "t" / "checkpoint"
            save_checkpoint(folder, step, {"step": step, "weights": torch.full((9,), float(step))})
        process = saver(
            tmp_path / uri.rpartition("/")[2], uri, 3, 4, 1_500_000
        )  # 6 MB: a multipart upload
        writes.count, writes.last, writes.is_done, writes.process = 0, last, is_done, process
        has_saved = bool(process.communicate("go\n")[0])
        writes.last = None
        assert has_saved == (last is None)

    with in_front_of(store.url, writes) as url:
        monkeypatch.setenv(store.variable, url)
        save_until(f"{store.bucket}/whole", None)
        num_writes = writes.count
        assert num_writes >= 6  # two parts and their completion, the manifest, and two deletions
        assert loaded_by("other", f"{store.bucket}/whole") == 3
        for last in range(1, num_writes + 1):
            for is_done in (False, True):
                uri = f"{store.bucket}/r9-{last}-{is_done}"
                save_until(uri, last, is_done=is_done)
                found.append(loaded_by("other", uri))
                folder = storage_folder(uri, "other") / "t" / "checkpoint"
                save_checkpoint(folder, 4, {"step": 4, "weights": torch.full((9,), 4.0)})
                assert loaded_by("third", uri) == 4
    assert found == sorted(found)  # old up to one write, new after it
    assert set(found) == {2, 3}
    table.played(len(found))
