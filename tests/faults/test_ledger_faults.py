"""R14: damaged records, and a database that is damaged, locked or read-only.

From a damaged record only its content is lost. If a sweep cannot continue without it, the error
names the file and its replacement.
"""

import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disks import small_disk
from drivers import Driver, assert_whole, longest_stall
from fake_sweep import NUM_EPOCHS, make_train, sweep_of
from fault_table import Table
from scale import MANY, how_often
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking import sqlite
from mlflow_setup.tracking.store import resolve_tracking
from search.driver.sweep import resume_sweep, run_sweep
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow

FINISHED, FINISHED_TOO, RUNNING = "0003", "0004", "0005"
"""Two finished trials, and one whose driver was killed after its second epoch."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, one_ray: None) -> Path:
    """The folder of an interrupted sweep of seven trials, which was extended once."""
    folder = tmp_path_factory.mktemp("swept")
    sweep = sweep_of(folder, tiny_data, "scheduler.name=none", "search.num_samples=6")
    storage = folder / "runs"
    run_sweep(sweep, "s", storage, resolve_tracking(storage), train=make_train())
    sweep_folder = SweepFolder(storage, "s")
    sweep_folder.extend(1)
    running = sweep_folder.trial(RUNNING)
    running.outcome_path.unlink()
    for epoch in (3, 4):
        (running.path / "epochs" / f"{epoch:04d}.json").unlink()
    (sweep_folder.path / "lease.json").write_text('{"host": "elsewhere"}', encoding="utf-8")
    return folder


@pytest.fixture
def sweep(swept: Path, tmp_path: Path) -> Path:
    """A copy of `swept` that a test may damage, with a new database."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs" / "mlartifacts")
    (tmp_path / "runs" / "mlflow.db").unlink()  # it contains the paths of the original artifacts
    words = ["sync", "s", "--storage", str(tmp_path / "runs")]
    assert CliRunner().invoke(app, words).exit_code == 0
    return tmp_path


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one byte short": lambda content: content.rstrip()[:-1],
    "zeros": lambda content: bytes(len(content)),
    "not UTF-8": lambda content: b"\xff" + content[1:],
    "a list": lambda content: b"[]",
}


def cut_at(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content.rstrip()[: int(share * len(content.rstrip()))]


_draw = random.Random(14)
DAMAGE |= {f"cut {n}": cut_at(_draw.random()) for n in range(how_often(0, 6, test=0))}
RECORDS = [
    f"trials/{FINISHED}/epochs/0002.json",
    f"trials/{FINISHED_TOO}/outcome.json",
    f"trials/{FINISHED_TOO}/attempts/0001.json",
    f"trials/{RUNNING}/epochs/0002.json",
    "lease.json",
]
REQUIRED = {
    "sweep.yaml": "the artifact sweep.yaml of the sweep's run",
    "extensions/0001.json": "num_samples",
    f"trials/{RUNNING}/config.json": "the artifact config.json of the trial's MLflow run",
}
CASES = [([r], damage) for r in RECORDS for damage in DAMAGE] if MANY else [(RECORDS, "half")]
"""Each record damaged in each way; at scale 1 all records at once, in one way."""


@pytest.mark.promise(
    "R14",
    "one of five records emptied, cut or changed",
    "only what it held is lost: the trial's epoch is trained again, or its lease taken over",
)
@pytest.mark.parametrize(("records", "damage"), CASES)
def test_r14_a_damaged_record_loses_only_its_content(
    sweep: Path, records: list[str], damage: str
) -> None:
    storage = sweep / "runs"
    before = values(storage)
    for record in records:
        break_file(storage / "s" / record, damage)
    resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
    after = values(storage)
    assert len(after) == 7
    assert {name: after[name][0] for name in before} == {n: v[0] for n, v in before.items()}
    shorter = {FINISHED} & {record.split("/")[1] for record in records if "/epochs/" in record}
    for name, (lr, *found) in after.items():
        wanted = [1 - lr + epoch / 100 for epoch in range(1, NUM_EPOCHS + 1)]
        assert found == (wanted[:1] if name in shorter else wanted), name
    if not shorter:
        assert set(assert_whole(sweep, 7).values()) == {Outcome.FINISHED}


@pytest.mark.promise(
    "R14",
    "the three records that are needed, emptied, cut or changed",
    "each is named, and can be replaced by its copy in MLflow",
)
@pytest.mark.parametrize("damage", list(DAMAGE) if MANY else ["empty"])
def test_r14_a_damaged_required_record_is_named_and_can_be_replaced(
    sweep: Path, damage: str
) -> None:
    storage = sweep / "runs"
    original = {record: (storage / "s" / record).read_bytes() for record in REQUIRED}
    for record in REQUIRED:
        break_file(storage / "s" / record, damage)
    for record, copy in REQUIRED.items():
        path = storage / "s" / record
        with pytest.raises(IntegrityError) as caught:
            resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
        assert str(path) in caught.value.problem
        assert caught.value.fix is not None
        assert copy in caught.value.fix
        found = [p.read_bytes() for p in (storage / "mlartifacts").rglob(path.name)]
        assert original[record] in found or "artifact" not in copy
        path.write_bytes(original[record])
    resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
    assert set(assert_whole(sweep, 7).values()) == {Outcome.FINISHED}


def break_file(path: Path, damage: str) -> None:
    path.write_bytes(DAMAGE[damage](path.read_bytes()))


def values(storage: Path) -> dict[str, list[float]]:
    """Trial -> its learning rate, then its overall score in each epoch."""
    found = {}
    for past in read_history(SweepFolder(storage, "s").trial_folders()):
        overall = [epoch.metrics["dev/overall"] for epoch in past.epochs]
        found[past.name] = [past.record.config["optim.lr"], *overall]
    return found


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2 // 4096 * 4096],
    "one page": lambda content: content[:4096],
    "without the last page": lambda content: content[:-4096],
    "part of a page": lambda content: content[:1000],
    "zeroed pages": lambda content: content[:8192] + bytes(65536) + content[8192 + 65536 :],
    "empty": lambda content: b"",
}


@pytest.mark.promise(
    "R14", "the SQLite file emptied, cut or changed", "refused, and rebuilt from the folders"
)
@pytest.mark.parametrize("cut", list(CUTS) if MANY else ["half"])
def test_r14_a_damaged_database_is_refused_and_rebuilt(sweep: Path, cut: str) -> None:
    storage = sweep / "copy" / "runs"  # this process has not opened its database yet
    shutil.copytree(sweep / "runs", storage)
    database = storage / "mlflow.db"
    database.write_bytes(CUTS[cut](database.read_bytes()))
    if cut != "empty":
        attempts = set(storage.glob("s/trials/*/attempts/*"))
        with pytest.raises(ConfigError) as caught:
            resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
        assert "malformed" in caught.value.problem or "not a database" in caught.value.problem
        assert f"move {database} away, then run ensweep sync" in str(caught.value)
        assert set(storage.glob("s/trials/*/attempts/*")) == attempts
        database.rename(storage / "damaged.db")
    assert CliRunner().invoke(app, ["sync", "s", "--storage", str(storage)]).exit_code == 0
    resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
    assert set(assert_whole(storage.parent, 7).values()) == {Outcome.FINISHED}


@contextmanager
def locked(database: Path) -> Iterator[int]:
    """Lock the database in another process. Yields its process id."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process.pid
        process.communicate()


@pytest.mark.promise(
    "R14",
    "the SQLite file is locked for good",
    "30 s of waiting, then an error that names the process that holds it",
)
def test_r14_the_process_that_locks_the_database_is_named(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    storage = sweep / "runs"
    if not MANY:
        monkeypatch.setattr(sqlite, "WAIT_SECONDS", 1.0)
    attempts = set(storage.glob("s/trials/*/attempts/*"))
    with locked(storage / "mlflow.db") as pid:
        started = time.monotonic()
        with pytest.raises(ConfigError, match=f"database is locked by process {pid} ") as caught:
            resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
        seconds = time.monotonic() - started
        assert "wait for it" in str(caught.value)
        assert seconds >= sqlite.WAIT_SECONDS
    table.measured("named after", [seconds])
    assert set(storage.glob("s/trials/*/attempts/*")) == attempts


@pytest.mark.promise(
    "R14",
    "the SQLite file is locked for 60 s in the middle of a sweep",
    "training stalls at most 1 s; whole",
)
@pytest.mark.rare("the test above locks the database before a sweep")
def test_r14_a_lock_during_a_sweep_does_not_stall_training(
    tmp_path: Path, tiny_data: Path, table: Table
) -> None:
    sweep_of(tmp_path, tiny_data)
    seconds = 5  # an epoch, so that the sweep outlasts the lock
    driver = Driver("run", tmp_path, "scheduler.name=none", SECONDS_AN_EPOCH=str(seconds))
    driver.wait_for_epochs(2)
    with locked(tmp_path / "runs" / "mlflow.db"):
        time.sleep(60)
    text = driver.finish()
    assert "Traceback" not in text
    table.measured("the longest stall was", [longest_stall(tmp_path, seconds)], within=1)
    assert set(assert_whole(tmp_path, 7).values()) == {Outcome.FINISHED}


@pytest.mark.promise(
    "R14", "the storage, or the SQLite file, is read-only", "refused before any work, exit 2"
)
def test_r14_read_only_storage_or_database_is_refused(
    tmp_path: Path, swept: Path, table: Table
) -> None:
    table.played(2)
    with small_disk(tmp_path / "runs", 16) as disk:
        shutil.copytree(swept / "runs", disk.path, dirs_exist_ok=True)
        words = ["resume", "s", "--storage", str(disk.path)]
        other = ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
        attempts = set(disk.path.glob("s/trials/*/attempts/*"))
        disk.remount("ro")
        for more in ([], other):
            result = CliRunner().invoke(app, words + more)
            assert isinstance(result.exception, ConfigError), result.output
            assert result.exception.exit_code == 2
            assert re.search("read-?only", str(result.exception), re.IGNORECASE)
        disk.remount("rw")
        elsewhere = ["--storage", str(tmp_path / "elsewhere"), "--tracking-uri"]
        shutil.copytree(disk.path, tmp_path / "elsewhere")
        disk.remount("ro")
        uri = f"sqlite:///{disk.path / 'mlflow.db'}"
        result = CliRunner().invoke(app, ["resume", "s", *elsewhere, uri])
        assert isinstance(result.exception, ConfigError), result.output
        assert re.search("read-?only", str(result.exception), re.IGNORECASE)
        assert set(disk.path.glob("s/trials/*/attempts/*")) == attempts
