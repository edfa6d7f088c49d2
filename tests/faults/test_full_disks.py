"""R13, R6: full disks, at many moments of a sweep.

The disks are small tmpfs mounts. Without permission to mount, these tests are skipped;
`test_sweep_faults.py` and `test_storage_faults.py` inject the errors instead.
"""

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, small_disk
from drivers import Driver, assert_whole, epoch_files, longest_stall
from fake_sweep import sweep_of
from fault_table import Table
from little_effort import LITTLE
from patience import PATIENCE
from real_sweep import choice, end, ensweep, record, sweep_file, wait_for_epochs
from scale import MANY, how_often
from servers import Server
from typer.testing import CliRunner

from ensemble.bundle.format import Bundle
from ensemble.choice.request import Request, choose_ensemble
from ensemble.choice.tracking import Record
from ensemble.export.write import chosen_parts, write_bundle
from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.storage import TEMPORARY, num_bytes
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.driver.sweep import run_sweep
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow

SWEEP_POINTS = [(1, 40), (1, 0), (3, 4), (3, 100), (6, 8), (6, 250), (9, 16), (9, 500),
                (12, 64), (12, 1000), (16, 32), (20, 128)]  # fmt: skip
"""The number of epochs before the disk is filled, and the KB that stay free."""
MLFLOW_POINTS = [(3, 0), (1, 64), (6, 16), (10, 24), (14, 8)]
_draw = random.Random(13)
SWEEP_POINTS += [(_draw.randint(1, 20), _draw.randint(0, 1000)) for _ in range(40)]
MLFLOW_POINTS += [(_draw.randint(1, 16), _draw.randint(0, 64)) for _ in range(20)]
STALL = "the longest stall was"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """32 MB for a sweep; three trials of the tiny BERT need up to 19."""
    with small_disk(tmp_path / "runs", 32) as disk:
        yield disk


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Disk]:
    """16 MB outside the sweep's folder."""
    with small_disk(tmp_path / "other", 16) as disk:
        yield disk


@pytest.mark.promise(
    "R13",
    "the sweep's disk is full, with 0 to 1,000 KB left, after 1 to 20 epochs",
    "the sweep stops in order (exit 75) and says so; no damaged file; whole after `resume`",
)
@pytest.mark.rare("test_callback.py stops a sweep because no space is left")
@pytest.mark.parametrize(("num_epochs", "kilobytes"), SWEEP_POINTS[: how_often(12, 52)])
def test_r13_a_full_disk_of_the_sweep_stops_it(
    tmp_path: Path, tiny_data: Path, disk: Disk, table: Table, num_epochs: int, kilobytes: int
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
    assert_undamaged(disk.path)
    code, text = Driver("resume", tmp_path, **given).end()  # the disk is still full
    assert code in (1, 75), text
    assert "Traceback" not in text
    disk.free()
    num_before, started = len(epoch_files(tmp_path)), time.monotonic()
    driver = Driver("resume", tmp_path, **{**given, "SECONDS_AN_EPOCH": "0"})
    driver.wait_for_epochs(num_before + 1)
    table.measured("on after `resume`", [time.monotonic() - started])
    driver.finish()
    tracking = Tracking(given["MLFLOW_TRACKING_URI"])
    assert set(assert_whole(tmp_path, 7, tracking).values()) == {Outcome.FINISHED}


@pytest.mark.promise(
    "O3",
    "the sweep's disk is full, with 0 to 300 KB left, after 1 to 9 epochs; `resume`",
    "metrics of every epoch, every kept weight and the chosen ensemble are bit by bit those of an "
    "undisturbed sweep (tiny BERT, CPU)",
)
@pytest.mark.rare("test_identity.py compares sweeps after other faults")
@pytest.mark.parametrize(("num_epochs", "kilobytes"), [(1, 0), (1, 300), (4, 60), (9, 0)])
def test_r13_a_full_disk_does_not_change_results(
    tmp_path: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    disk: Disk,
    num_epochs: int,
    kilobytes: int,
) -> None:
    file, undisturbed = sweep_file(tmp_path, tiny_encoder, tiny_data), tmp_path / "undisturbed"
    end(ensweep("sweep", str(file), "--storage", str(undisturbed), "--name", "s"))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = ("--storage", str(disk.path), "--tracking-uri", uri)
    driver = ensweep("sweep", str(file), "--name", "s", *words)
    wait_for_epochs(tmp_path, num_epochs, driver)
    disk.fill(kilobytes)
    text, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 75, text
    assert "MB are free on the sweep's disk" in text
    assert "Traceback" not in text
    disk.free()
    end(ensweep("resume", "s", *words))
    assert_whole(tmp_path, 3, Tracking(uri), num_epochs=6, is_pretended=False)
    assert record(disk.path, "s") == record(undisturbed, "s")
    assert choice(disk.path, "s", Tracking(uri)) == choice(undisturbed, "s")


def assert_undamaged(storage: Path) -> None:
    """Every record and all weights are complete or absent."""
    for path in storage.glob("s/trials/**/*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for trial in SweepFolder(storage, "s").trial_folders():
        for epoch in trial.kept_epochs():
            trial.require_weights(epoch)
        assert len(trial.epochs()) == len(list(trial.path.glob("epochs/????.json")))


@pytest.mark.promise(
    "R13", "there is no room for a sweep to begin", "refused, and its name is free again"
)
def test_r13_a_sweep_does_not_start_on_a_full_disk(
    tmp_path: Path, tiny_data: Path, disk: Disk
) -> None:
    sweep = sweep_of(tmp_path, tiny_data)
    tracking = Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}")
    disk.fill()
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        run_sweep(sweep, "s", disk.path, tracking)
    assert not (disk.path / "s").exists()


@pytest.mark.promise(
    "R13",
    "MLflow's disk is full, with 0 to 64 KB left, after 1 to 16 epochs",
    "training stalls at most 1 s, exit 4; whole after `ensweep sync`",
)
@pytest.mark.rare("test_ui_server.py has a mirror that catches up")
@pytest.mark.parametrize(("num_epochs", "kilobytes"), MLFLOW_POINTS[: how_often(5, 25)])
def test_r13_a_full_disk_of_mlflow_does_not_stop_training(
    tmp_path: Path, tiny_data: Path, other_disk: Disk, table: Table, num_epochs: int, kilobytes: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    uri = f"sqlite:///{other_disk.path / 'mlflow.db'}"
    given = {"MLFLOW_TRACKING_URI": uri, "SECONDS_AN_EPOCH": "0.2"}
    driver = Driver("run", tmp_path, "scheduler.name=none", **given)
    driver.wait_for_epochs(num_epochs)
    other_disk.fill(kilobytes)
    code, text = driver.end()
    assert code == 4, text
    assert "training continues, but MLflow has missed trial" in text
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
    table.measured(STALL, [stall], within=1)


@pytest.mark.promise(
    "R13", "there is no room for MLflow's database", "refused by name; made once there is room"
)
@pytest.mark.usefixtures("real_migrations")
@pytest.mark.parametrize("kilobytes", [0, 8, 100, 300, 450] if MANY else [100])
def test_r13_no_database_is_created_on_a_full_disk(other_disk: Disk, kilobytes: int) -> None:
    """A partly written database does not prevent a later attempt."""
    tracking = Tracking(f"sqlite:///{other_disk.path / 'mlflow.db'}")
    other_disk.fill(kilobytes)
    with pytest.raises(ConfigError, match=r"full|No space left") as caught:
        tracking.check()
    assert "make room" in str(caught.value)
    other_disk.free()
    Tracking(tracking.uri).check()


@pytest.mark.promise(
    "R6",
    "the MLflow server's disk is full for 18 epochs",
    "training stalls at most 1 s; whole once there is room",
)
@pytest.mark.rare("test_background_mirror.py has a server that fails")
def test_r6_a_full_disk_of_the_mlflow_server(
    tmp_path: Path, tiny_data: Path, other_disk: Disk, table: Table
) -> None:
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
        text = driver.finish()
        assert "MLflow has missed" in text
        assert_whole(tmp_path, 7, Tracking(server.uri))
    finally:
        server.kill()
    table.measured(STALL, [longest_stall(tmp_path, 0.5)], within=1)


@pytest.mark.promise(
    "R13",
    "the disk is full at a tenth, two tenths, ... of a bundle",
    "the space that it needs is printed, and nothing of it remains",
)
def test_r13_a_bundle_that_does_not_fit_leaves_no_files(
    tiny_runs: Path, tmp_path: Path, other_disk: Disk, table: Table
) -> None:
    request = Request(("tiny",))
    chosen = choose_ensemble(resolve_tracking(tiny_runs), request, tmp_path / "cache", LITTLE)
    parts = chosen_parts(request, Record.of(*chosen), {})
    whole = tmp_path / "whole"
    write_bundle(whole, parts)
    needed, output = num_bytes(whole) // 1024, other_disk.path / "bundle"
    table.played(10)
    for share in range(10):
        other_disk.fill(needed * share // 10)
        with pytest.raises(ConfigError, match="no space is left; it needs about"):
            write_bundle(output, parts)
        assert not output.exists()
        assert not list(other_disk.path.glob(f"{TEMPORARY}*"))
        other_disk.free()
    write_bundle(output, parts)
    Bundle.load(output)
    shutil.rmtree(output)


def test_r13_export_to_a_full_disk_is_a_config_error(tiny_runs: Path, other_disk: Disk) -> None:
    other_disk.fill(20)
    output = other_disk.path / "bundle"
    words = ["export", "tiny", "--storage", str(tiny_runs), "--output", str(output)]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2
    assert not output.exists()
