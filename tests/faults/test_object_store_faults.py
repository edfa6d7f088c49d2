"""Sweeps in an object store: the faults of a disk, and those of a store.

moto emulates S3, azurite emulates Azure. tests/mlflow_setup/filesystem/test_working_copy.py
interrupts each write to a store in memory.
"""

import functools
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from drivers import Driver, assert_whole
from fake_sweep import sweep_of
from fault_table import Table
from scale import how_often
from stores import URI, Machines, Served, misbehaving

from mlflow_setup.filesystem import storage
from mlflow_setup.filesystem.atomic import atomic_folder, remove_folder, write_atomic
from mlflow_setup.filesystem.lease import read_lease
from mlflow_setup.filesystem.manifest import find_damage, write_manifest
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.working_copy import WorkingCopy
from mlflow_setup.schema import Outcome
from search.storage.sweep_folder import SweepFolder
from trainable.storage.checkpoint import load_newest, save_checkpoint

rare = pytest.mark.rare("tests/mlflow_setup/filesystem/test_working_copy.py, in memory")


def machine(folder: Path, uri: str) -> WorkingCopy:
    """A machine's working copy of the store."""
    folder.mkdir(exist_ok=True)
    copy = WorkingCopy(uri, folder.resolve(), ObjectStore(uri))
    storage._working_copies[copy.root] = copy
    return copy


def num_epochs() -> int:
    trials = SweepFolder(storage_folder(URI), "s").trial_folders()
    return sum(len(trial.epochs()) for trial in trials)


@rare
@pytest.mark.slow
@pytest.mark.promise(
    "R1",
    "object store: SIGKILL of trials' processes, then of all at once, also during `resume`",
    "whole, on a machine that had nothing of it",
)
@pytest.mark.parametrize("number", range(how_often(1, 5)))
def test_r1_r3_r4_kills_of_a_sweep_in_an_object_store(
    tmp_path: Path, tiny_data: Path, s3: dict[str, str], table: Table, number: int
) -> None:
    draw = random.Random(number)
    sweep_of(tmp_path, tiny_data)
    given = {"STORAGE": URI, "SECONDS_AN_EPOCH": "2", "KILOBYTES": "50"}
    driver = Driver(
        "run", tmp_path, "scheduler.name=none", ENSWEEP_CACHE=str(tmp_path / "0"), **given
    )
    for kill in range(3):
        driver.wait_for(lambda kill=kill: num_epochs() > kill)
        driver.wait_for(driver.workers)
        draw.choice(driver.workers()).kill()
    for resume in range(1, 4):
        before = num_epochs()
        driver.wait_for(functools.partial(_has_more_than, before))
        time.sleep(draw.uniform(0, 1))
        for process in reversed(driver.processes()):
            process.kill()
        driver.kill()
        cache = str(tmp_path / str(resume))  # another machine
        driver = Driver("resume", tmp_path, ENSWEEP_CACHE=cache, **given)
    driver.finish(600)
    outcomes = assert_whole(tmp_path, 7, storage=storage_folder(URI))
    assert set(outcomes.values()) == {Outcome.FINISHED}
    left = [path for path in tmp_path.glob(f"{resume}/scratch/*/s/trials/0*/*") if path.is_file()]
    assert left == []  # workers delete their scratch folders after a trial
    table.played(6)


def _has_more_than(count: int) -> bool:
    return num_epochs() > count


@rare
@pytest.mark.slow
@pytest.mark.promise(
    "R15",
    "object store: another driver on a sweep that runs, on another machine: `resume`, `sweep` of "
    "its name; then two `resume` at once",
    "refused, with process, host and start of the running driver; the sweep is whole",
)
@pytest.mark.parametrize("number", range(how_often(1, 5)))
def test_r15_two_drivers_of_one_sweep_in_an_object_store(
    tmp_path: Path, tiny_data: Path, s3: dict[str, str], table: Table, number: int
) -> None:
    """Others are refused while the first runs. Of two that resume at once, one is refused."""
    sweep_of(tmp_path, tiny_data)

    def drive(verb: str, machine: str, seconds_an_epoch: str) -> Driver:
        more = {"STORAGE": URI, "ENSWEEP_CACHE": str(tmp_path / machine)}
        return Driver(verb, tmp_path, SECONDS_AN_EPOCH=seconds_an_epoch, **more)

    first = drive("run", "first", "30")
    first.wait_for(first.workers)
    for other in [drive(verb, verb, "0") for verb in ("resume", "run")]:
        code, text = other.end()
        assert code != 0
        assert f"sweep s is being run by process {first.process.pid} on " in text
    assert first.process.poll() is None
    first.process.send_signal(signal.SIGTERM)
    code, text = first.end()
    assert code == 75, text
    results = [
        driver.end(600) for driver in [drive("resume", m, "10") for m in ("second", "third")]
    ]
    (code, output), (refused, text) = sorted(results)
    assert (code, refused) == (0, 1), f"{output}\n{text}"
    assert "sweep s is being run by process " in text
    assert_whole(tmp_path, 7, storage=storage_folder(URI))
    assert read_lease(storage_folder(URI) / "s" / "lease.json") is None
    table.played(3)


@rare
@pytest.mark.promise(
    "R26",
    "object store: a fifth of the requests get status 500, 503 or 429, slow, cut or lost "
    "answers, or objects that are listed but not there yet",
    "what was written is read completely; of many that want a lease exactly one gets it",
)
@pytest.mark.parametrize("seed", range(how_often(3, 20)))
def test_r26_errors_and_delays_of_a_store(
    tmp_path: Path, store: Served, monkeypatch: pytest.MonkeyPatch, table: Table, seed: int
) -> None:
    uri = f"{store.bucket}/sweeps"
    with misbehaving(store.url, seed, share=0.2) as (url, counts):
        monkeypatch.setenv(store.variable, url)
        here, there = machine(tmp_path / "here", uri), machine(tmp_path / "there", uri)
        here.probe()
        for number in range(10):
            write_atomic(here.root / "s" / f"{number}.json", str(number))
            with atomic_folder(here.root / "s" / "weights" / str(number)) as temporary:
                (temporary / "model").write_bytes(os.urandom(100_000))
                write_manifest(temporary, {"epoch": number})
            if number % 2:
                remove_folder(here.root / "s" / "weights" / str(number - 1))
        there.pull(there.root / "s", "*", "weights/*/manifest.json")
        kept = sorted(path.name for path in (there.root / "s" / "weights").iterdir())
        assert kept == ["1", "3", "5", "7", "9"]
        for name in kept:
            folder = there.root / "s" / "weights" / name
            there.fetch(folder)
            assert find_damage(folder, {"epoch": int(name)}) is None
        assert [(there.root / "s" / f"{n}.json").read_text() for n in range(10)] == [
            str(n) for n in range(10)
        ]
        won = [0] * 4

        def acquire(number: int) -> None:
            cell = machine(tmp_path / f"m{number}", uri).cell(tmp_path / f"m{number}" / "cell")
            won[number] = sum(cell.swap(None, f"{number} {n}") is not None for n in range(3))

        threads = [threading.Thread(target=acquire, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(won) == 1
    num_faults = sum(count for fault, count in counts.items() if fault)
    assert num_faults > 10
    table.played(num_faults)


@pytest.mark.promise(
    "R11",
    "object store: a bit flipped, a file truncated, missing, or another's",
    "detected; put aside, not deleted; the one before it is loaded",
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "swap"])
def test_r11_damaged_checkpoints_in_an_object_store_are_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table, damage: str
) -> None:
    machines, draw, count = Machines(monkeypatch, tmp_path), random.Random(7), how_often(50, 500)
    writer = machines.copy("writer")
    for step in (1, 2):
        save_checkpoint(writer.root / "t" / "checkpoint", step, {"w": torch.full((64,), step)})
    names = {step: f"t/checkpoint/{step:08d}/state.pt" for step in (1, 2)}
    whole = {step: writer.store.get(name)[0] for step, name in names.items()}
    for number in range(count):
        content = bytearray(whole[2])
        if damage == "flip":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif damage == "truncate":
            del content[draw.randrange(len(content)) :]
        elif damage == "swap":
            content = bytearray(whole[1])
        writer.store.put(names[2], bytes(content))
        if damage == "missing":
            writer.store.delete([names[2]])
        reader = machines.copy(f"reader-{number}")
        folder = reader.root / "t" / "checkpoint"
        reader.pull(folder, "*/manifest.json")
        found = load_newest(folder)
        assert found is not None
        assert found[0] == 1
        aside = [n for n in machines.names() if n.startswith("t/checkpoint/quarantine/00000002-")]
        assert aside
        assert not [n for n in machines.names() if n.startswith("t/checkpoint/00000002/")]
        remove_folder(folder / "quarantine")
        save_checkpoint(folder, 2, {"w": torch.full((64,), 2)})
    table.played(count)
