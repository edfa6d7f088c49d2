"""R13, R6: a disk that is really full, at many moments: nothing is damaged, and it goes on later.

The disks are small ones in memory. Where none can be mounted these tests skip, and the injected
errors of `test_sweep_faults.py` and `test_storage_faults.py` remain.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, small_disk
from drivers import Driver, assert_whole, epoch_files, longest_stall
from fake_sweep import sweep_of
from real_sweep import ensweep, record, sweep_file
from servers import Server
from typer.testing import CliRunner

from ensemble.bundle import Bundle
from ensemble.choose import Request, choose_ensemble
from ensemble.export import chosen_parts, write_bundle
from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from mlflow_setup.files import TEMPORARY, num_bytes
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking import Tracking, resolve_tracking
from search.history import SweepFolder

pytestmark = pytest.mark.slow

SCALE = int(os.environ.get("ENSWEEP_FAULTS_SCALE", "1"))
MANY = SCALE > 1

SWEEP_POINTS = [(1, 40), (1, 0), (3, 4), (3, 100), (6, 8), (6, 250), (9, 16), (9, 500),
                (12, 64), (12, 1000), (16, 32), (20, 128)]  # fmt: skip
"""Epochs of the sweep before its disk is filled, and the KB that are left then."""
MLFLOW_POINTS = [(3, 0), (1, 64), (6, 16), (10, 24), (14, 8)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """16 MB for sweeps."""
    with small_disk(tmp_path / "runs", 16) as disk:
        yield disk


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Disk]:
    """16 MB for what is not the sweep's folder."""
    with small_disk(tmp_path / "other", 16) as disk:
        yield disk


@pytest.mark.parametrize(("num_epochs", "kilobytes"), SWEEP_POINTS if MANY else SWEEP_POINTS[:1])
def test_r13_the_disk_of_the_sweep(
    tmp_path: Path, tiny_data: Path, disk: Disk, num_epochs: int, kilobytes: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    given = {
        "KILOBYTES": "100",
        "SECONDS_AN_EPOCH": "0.2",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    driver = Driver("run", tmp_path, "scheduler.name=none", **given)
    driver.wait_for_epochs(num_epochs)
    disk.fill(kilobytes)
    code, text = driver.end()
    assert code == 75, text
    assert "stopping: " in text
    assert "MB are free on the sweep's disk" in text
    assert "Traceback" not in text
    num_trials = assert_undamaged(disk.path)
    if MANY:
        code, text = Driver("resume", tmp_path, **given).end()  # it is still full
        assert code in (1, 75), text
        assert "Traceback" not in text
    disk.free()
    num_before, started = len(epoch_files(tmp_path)), time.monotonic()
    driver = Driver("resume", tmp_path, **{**given, "SECONDS_AN_EPOCH": "0"})
    driver.wait_for_epochs(num_before + 1)
    print(f"R13: {num_trials} trials, {kilobytes} KB; on {time.monotonic() - started:.1f} s after")
    code, text = driver.end()
    assert code == 0, text
    tracking = Tracking(given["MLFLOW_TRACKING_URI"])
    assert set(assert_whole(tmp_path, 7, tracking).values()) == {Outcome.FINISHED}


@pytest.mark.skipif(not MANY, reason="trains two sweeps in earnest: `make faults` plays it")
@pytest.mark.parametrize(("num_epochs", "kilobytes"), [(1, 0), (1, 300), (4, 60), (9, 0)])
def test_r13_in_earnest_nothing_is_changed_by_it(
    tmp_path: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    disk: Disk,
    num_epochs: int,
    kilobytes: int,
) -> None:
    """O3: metrics of every epoch and every kept weight are those of an undisturbed sweep."""
    file = sweep_file(tmp_path, tiny_encoder, tiny_data)
    undisturbed = ensweep("sweep", str(file), "--storage", str(tmp_path / "calm"), "--name", "s")
    text, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, text

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = ("--storage", str(disk.path), "--tracking-uri", uri)
    driver = ensweep("sweep", str(file), "--name", "s", *words)
    while len(epoch_files(tmp_path)) < num_epochs:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)
    disk.fill(kilobytes)
    text, _ = driver.communicate(timeout=300)
    assert driver.returncode == 75, text
    assert "MB are free on the sweep's disk" in text
    assert "Traceback" not in text
    print(f"R13: real trials, {kilobytes} KB after epoch {num_epochs}")
    disk.free()
    driver = ensweep("resume", "s", *words)
    text, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, text
    assert record(disk.path, "s") == record(tmp_path / "calm", "s")


def assert_undamaged(storage: Path) -> int:
    """Every record and all weights are whole or not there; the number of trials."""
    trials = SweepFolder(storage, "s").trial_folders()
    for path in storage.glob("s/trials/**/*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for trial in trials:
        for epoch in trial.kept_epochs():
            trial.require_weights(epoch)
        assert len(trial.epochs()) == len(list(trial.path.glob("epochs/????.json")))
    return len(trials)


def test_r13_no_room_for_a_sweep_to_begin(tmp_path: Path, tiny_data: Path, disk: Disk) -> None:
    """It is refused, and its name is free once there is room."""
    sweep_of(tmp_path, tiny_data)
    given = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    disk.fill()
    code, text = Driver("run", tmp_path, **given).end()
    assert code == 1, text
    assert "cannot be written: No space left on device" in text
    assert "Traceback" not in text
    assert not (disk.path / "s").exists()


@pytest.mark.parametrize(("num_epochs", "kilobytes"), MLFLOW_POINTS if MANY else MLFLOW_POINTS[:1])
def test_r13_the_disk_of_mlflow(
    tmp_path: Path, tiny_data: Path, other_disk: Disk, num_epochs: int, kilobytes: int
) -> None:
    """Training goes on; what MLflow has missed it is told later, by `ensweep sync`."""
    sweep_of(tmp_path, tiny_data)
    uri = f"sqlite:///{other_disk.path / 'mlflow.db'}"
    given = {"MLFLOW_TRACKING_URI": uri, "SECONDS_AN_EPOCH": "0.2"}
    driver = Driver("run", tmp_path, "scheduler.name=none", **given)
    driver.wait_for_epochs(num_epochs)
    other_disk.fill(kilobytes)
    code, text = driver.end()
    assert code == 4, text
    assert "training goes on, but MLflow has missed trial" in text
    assert "Traceback" not in text
    stall = longest_stall(tmp_path, 0.2)
    words = ["sync", "s", "--storage", str(tmp_path / "runs"), "--tracking-uri", uri]
    assert CliRunner().invoke(app, words).exit_code != 0
    other_disk.free()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert set(assert_whole(tmp_path, 7, Tracking(uri)).values()) == {Outcome.FINISHED}
    root = other_disk.path / "mlartifacts"
    for path in root.rglob("config.json"):
        json.loads(path.read_text(encoding="utf-8"))
    print(f"R13: MLflow's disk full with {kilobytes} KB; the longest stall was {stall:.2f} s")
    assert stall < 5


@pytest.mark.parametrize("kilobytes", [0, 8, 100, 300, 450] if MANY else [100])
def test_r13_no_room_for_a_database(other_disk: Disk, kilobytes: int) -> None:
    """What it could make of one is no hindrance later."""
    tracking = Tracking(f"sqlite:///{other_disk.path / 'mlflow.db'}")
    other_disk.fill(kilobytes)
    with pytest.raises(ConfigError, match=r"full|No space left") as caught:
        tracking.check()
    assert "make room" in str(caught.value)
    other_disk.free()
    Tracking(tracking.uri).check()


@pytest.mark.skipif(not MANY, reason="takes a server and a sweep: `make faults` plays it")
def test_r6_the_disk_of_the_server(tmp_path: Path, tiny_data: Path, other_disk: Disk) -> None:
    sweep_of(tmp_path, tiny_data)
    server = Server(other_disk.path)
    server.start()
    try:
        given = {"MLFLOW_TRACKING_URI": server.uri, "SECONDS_AN_EPOCH": "0.5"}
        driver = Driver("run", tmp_path, "scheduler.name=none", **given)
        driver.wait_for_epochs(2)
        other_disk.fill()
        driver.wait_for_epochs(20)
        other_disk.free()
        code, text = driver.end()
        assert code == 0, text
        assert "MLflow has missed" in text
        assert_whole(tmp_path, 7, Tracking(server.uri))
    finally:
        server.kill()
    stall = longest_stall(tmp_path, 0.5)
    print(f"R6: the server's disk full for 18 epochs; the longest stall was {stall:.2f} s")
    assert stall < 5


def test_r13_no_room_for_a_bundle(tiny_runs: Path, tmp_path: Path, other_disk: Disk) -> None:
    """At each level nothing is left of it, and what is said tells how much it needs."""
    request = Request(("tiny",))
    chosen = choose_ensemble(resolve_tracking(tiny_runs), request, tmp_path / "cache")
    parts = chosen_parts(request, *chosen, {})
    whole = tmp_path / "whole"
    write_bundle(whole, parts)
    needed, output = num_bytes(whole) // 1024, other_disk.path / "bundle"
    for share in range(10):
        other_disk.fill(needed * share // 10)
        with pytest.raises(ConfigError, match="no space is left; it takes about"):
            write_bundle(output, parts)
        assert not output.exists()
        assert not list(other_disk.path.glob(f"{TEMPORARY}*"))
        other_disk.free()
    write_bundle(output, parts)
    Bundle.load(output)
    shutil.rmtree(output)


def test_r13_the_command_line_has_no_traceback(tiny_runs: Path, other_disk: Disk) -> None:
    other_disk.fill(20)
    output = other_disk.path / "bundle"
    words = ["export", "tiny", "--storage", str(tiny_runs), "--output", str(output)]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2
    assert not output.exists()
