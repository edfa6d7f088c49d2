"""R9: errors, kills and power cuts at any operation of a save leave the old or the new state.

At ENSWEEP_FAULTS_SCALE=1 every third operation and the last one fail, above 1 each.
"""

import io
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from atomic_targets import TARGETS, write_weights
from fault_table import Table
from safetensors import SafetensorError
from scale import MANY
from stored_steps import CHILD_SECONDS, assert_no_leftovers, contents, loaded_step, state

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.storage import TEMPORARY
from trainable.storage.checkpoint import load_newest, save_checkpoint
from trainable.storage.trial_folder import TrialFolder

pytestmark = pytest.mark.usefixtures("one_thread")

OPERATIONS: list[tuple[Any, str]] = [
    (io, "open"),
    *((os, name) for name in ("open", "mkdir", "fsync", "rename", "replace", "unlink", "rmdir")),
    *((os, name) for name in ("link", "scandir", "listdir")),
    (torch, "save"),
]


def arm(number: int, mode: str) -> list[str]:
    """Make the operation `number` of this process fail. Returns the list of its operations so far.

    Args:
        mode: `error`: it raises; `dead disk`: it and all later ones raise; `kill`: the process is
            killed.
    """
    seen: list[str] = []

    def wrap(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == number and mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if len(seen) == number or (len(seen) > number and mode == "dead disk"):
                raise OSError(28, f"{name} fails for the test")
            return operation(*arguments, **options)

        return counted

    for module, name in OPERATIONS:
        setattr(module, name, wrap(name, getattr(module, name)))
    return seen


def in_child(action: Callable[[], int | None]) -> int:
    """Run `action` in a forked child. Returns its result; 201: an error of the disk; -9: a kill."""
    child = os.fork()
    if child == 0:
        status = 202
        signal.alarm(CHILD_SECONDS)
        try:
            status = action() or 0
        except (OSError, RuntimeError, IntegrityError, SafetensorError):  # RuntimeError: torch
            status = 201
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


MODES = {"error": {0, 201}, "dead disk": {0, 201}, "kill": {-signal.SIGKILL}}
"""How an operation fails -> the possible results of `in_child`."""


def crashes(
    disk: Path, before: Path, action: Callable[[Path], object], mode: str
) -> Iterator[tuple[Path, int]]:
    """Copies of `before` in which one operation of `action` has failed, and the results of
    `in_child`."""

    def count() -> int:
        seen = arm(-1, "error")
        action(disk / "count")
        return len(seen)

    shutil.copytree(before, disk / "count")
    num_points = in_child(count)
    shutil.rmtree(disk / "count")
    assert 4 <= num_points <= 100
    for number in sorted({*range(1, num_points, 1 if MANY else 3), num_points}):
        folder = disk / f"{mode}-{number}"
        shutil.copytree(before, folder)

        def crash(number: int = number, folder: Path = folder) -> None:
            arm(number, mode)
            action(folder)

        status = in_child(crash)
        assert status in MODES[mode]
        yield folder, status


@pytest.mark.promise(
    "R9",
    "each disk operation of a save in turn raises an error, kills the process, or is the last"
    " before a crash",
    "the old or the new state is there, never a mixture; nothing half-written remains after "
    "the next start",
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TARGETS)
def test_r9_a_crash_at_any_operation_leaves_old_or_new(
    disk: Path, table: Table, name: str, mode: str
) -> None:
    target, before = TARGETS[name], disk / "before"
    target.prepare(before)
    found = []
    for folder, status in crashes(disk, before, target.write, mode):
        found.append(target.read(folder))
        assert found[-1] == 2 or status != 0, "a write that did not raise is incomplete"
        assert_no_leftovers(folder)
        target.write(folder)  # the next write succeeds
        assert target.read(folder) == 2
    table.played(len(found))
    assert set(found) == {1, 2}
    if mode == "kill":
        assert found == sorted(found), "old up to one operation, new after it"


def damage_newest(folder: Path) -> None:
    for step in (1, 2):
        save_checkpoint(folder, step, state(step))
    os.truncate(folder / "00000002" / "state.pt", 1000)


@pytest.mark.promise(
    "R9", "the same while a damaged checkpoint is put aside", "the one before it loads"
)
@pytest.mark.parametrize("mode", MODES)
def test_r9_a_crash_during_quarantine_keeps_both_checkpoints(
    disk: Path, table: Table, mode: str
) -> None:
    before = disk / "before"
    damage_newest(before)
    (before / f"{TEMPORARY}half" / "folder").mkdir(parents=True)
    damaged = contents(before / "00000002")
    for number, (folder, _) in enumerate(crashes(disk, before, load_newest, mode), start=1):
        table.played(number)
        assert loaded_step(folder) == 1
        assert [contents(path) for path in (folder / "quarantine").iterdir()] == [damaged]
        assert_no_leftovers(folder)


WRITES = {
    **{name: (target.prepare, target.write) for name, target in TARGETS.items()},
    "damaged": (damage_newest, load_newest),
    "encoder": (Path.exists, lambda path: TrialFolder(path / "new").keep_encoder(write_weights(1))),
}
del WRITES["dropped weights"]  # nothing is written


@pytest.mark.promise(
    "R9", "a power cut after any operation", "a renamed file has its content and its name"
)
@pytest.mark.parametrize("name", WRITES)
def test_r9_renamed_files_survive_a_power_cut(
    disk: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced before the rename, and the name before older files are removed."""
    prepare, write = WRITES[name]
    prepare(disk)
    fsync, before = os.fsync, {*disk.rglob("*"), disk, *disk.parents}
    synced: dict[Path, object] = {}
    entries: dict[Path, set[str]] = {}  # of synced folders
    renamed: list[Path] = []

    def facts(path: Path) -> object:
        stat = path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def watched_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path] = facts(path)
        entries[path] = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        fsync(descriptor)

    def assert_names_synced() -> None:
        for path in renamed:
            for new in {path, *path.parents} - before if path.exists() else ():
                assert new.name in entries[new.parent], f"the name of {new} is not synced"

    def watched(rename: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def checked(source: Any, target: Any) -> None:
            if Path(source).name.startswith(TEMPORARY):
                for path in (Path(source), *Path(source).rglob("*")):
                    assert synced.get(path) == facts(path), f"{path} is not synced"
            if Path(target).name.startswith(TEMPORARY):
                assert_names_synced()
            else:
                renamed.append(Path(target))
            rename(source, target)

        return checked

    monkeypatch.setattr(os, "fsync", watched_fsync)
    for operation in ("rename", "replace"):
        monkeypatch.setattr(os, operation, watched(getattr(os, operation)))
    write(disk)
    assert any(path.exists() for path in renamed)
    assert_names_synced()


@pytest.mark.promise(
    "R9",
    "the size of files is limited (RLIMIT_FSIZE), at each byte of a save in turn",
    "the old one loads",
)
@pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL], ids=["error", "kill"])
@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("dropped")])
def test_r9_a_file_size_limit_at_any_byte_keeps_the_old(
    disk: Path, table: Table, name: str, action: signal.Handlers
) -> None:
    """A write past the limit raises, or the process is killed."""
    target, before = TARGETS[name], disk / "before"
    target.prepare(before)
    largest = max(path.stat().st_size for path in before.rglob("*") if path.is_file())
    limits = {*range(0, largest, 256), largest - 1}
    table.played(len(limits))
    for limit in limits:
        folder = disk / str(limit)
        shutil.copytree(before, folder)

        def crash(limit: int = limit, folder: Path = folder) -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            signal.signal(signal.SIGXFSZ, action)
            target.write(folder)

        assert in_child(crash) == (201 if action == signal.SIG_IGN else -signal.SIGXFSZ)
        assert target.read(folder) == 1
        assert_no_leftovers(folder)
        target.write(folder)
        assert target.read(folder) == 2
