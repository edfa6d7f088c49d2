"""What is on disk survives crashes, kills and corruption (promises R9, R10, R11, R22).

`ENSWEEP_FAULTS_SCALE` (default 1) multiplies the counts that are drawn at random: 100 kills, 300
corruptions and as many clean loads, 210 prediction files. At 1 every third write point is played,
and the last; above 1 each is.
At 1 they are played on a file system in memory where there is one, for what takes time is fsync;
above 1 on the disk of the temporary folder.
"""

import io
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_table import Table
from safetensors import SafetensorError
from scale import MANY
from stored_steps import CHILD_SECONDS, assert_no_leftovers, contents, loaded_step, state

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.filesystem.storage import TEMPORARY
from mlflow_setup.schema import Outcome, OutcomeRecord
from trainable.model import weight_files
from trainable.storage.checkpoint import load_newest, save_checkpoint
from trainable.storage.trial_folder import TrialFolder

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Target:
    """Something that is written whole; `read` starts anew and tells 1 (old) or 2 (new)."""

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    read: Callable[[Path], int]


def write_weights(epoch: int) -> Callable[[Path], object]:
    return lambda folder: [
        (folder / name).write_bytes(bytes([epoch]) * 3000) for name in ("model", "heads")
    ]


def newest_weights(path: Path) -> int:
    trial = TrialFolder(path)
    trial.forget_after(9)
    for epoch in trial.kept_epochs():
        folder = trial.require_weights(epoch)
        assert {path.name for path in folder.iterdir()} == {"model", "heads", MANIFEST}
        assert (folder / "model").read_bytes() == bytes([epoch]) * 3000
    return max(trial.kept_epochs())


def keep_heads(path: Path, epoch: int) -> None:
    """Weights of an epoch that has the encoder of all others."""
    trial = TrialFolder(path / "t")
    weights = {"encoder.x": torch.ones(100), "heads.x": torch.full((600,), float(epoch))}
    kept = [trial.weights_dir(before) for before in trial.kept_epochs()]
    trial.keep_weights(
        epoch, lambda folder: weight_files.write_weights(weights, folder, kept, path / "shared")
    )


def newest_heads(path: Path) -> int:
    trial = TrialFolder(path / "t")
    trial.forget_after(9)
    for epoch in trial.kept_epochs():
        found = weight_files.read_weights(trial.require_weights(epoch))
        assert torch.equal(found["encoder.x"], torch.ones(100))
        assert torch.equal(found["heads.x"], torch.full((600,), float(epoch)))
    return max(trial.kept_epochs())


def drop_state(path: Path) -> int:
    """Old: both epochs' weights are there; new: the second one's are gone. None is half there."""
    newest_weights(path)
    return 1 if 2 in TrialFolder(path).kept_epochs() else 2


def outcome(number: int) -> OutcomeRecord:
    kind = Outcome.STOPPED if number == 1 else Outcome.FINISHED
    return OutcomeRecord(kind, f"outcome {number} " * 50, number, float(number))


def stored_outcome(path: Path) -> int:
    trial = TrialFolder(path)
    trial.forget_after(9)
    found = trial.outcome()
    assert found is not None
    assert found == outcome(found.epoch)
    return found.epoch


TARGETS = {
    "checkpoint": Target(
        prepare=lambda path: [save_checkpoint(path, step, state(step)) for step in (0, 1)],
        write=lambda path: save_checkpoint(path, 2, state(2)),
        read=loaded_step,
    ),
    "weights": Target(
        prepare=lambda path: TrialFolder(path).keep_weights(1, write_weights(1)),
        write=lambda path: TrialFolder(path).keep_weights(2, write_weights(2)),
        read=newest_weights,
    ),
    "weights of heads": Target(
        prepare=lambda path: keep_heads(path, 1),
        write=lambda path: keep_heads(path, 2),
        read=newest_heads,
    ),
    "dropped weights": Target(
        prepare=lambda path: [
            TrialFolder(path).keep_weights(epoch, write_weights(epoch)) for epoch in (1, 2)
        ],
        write=lambda path: TrialFolder(path).drop_weights(2),
        read=drop_state,
    ),
    "outcome": Target(
        prepare=lambda path: TrialFolder(path).write_outcome(outcome(1)),
        write=lambda path: TrialFolder(path).write_outcome(outcome(2)),
        read=stored_outcome,
    ),
}


OPERATIONS: list[tuple[Any, str]] = [
    (io, "open"),
    *((os, name) for name in ("open", "mkdir", "fsync", "rename", "replace", "unlink", "rmdir")),
    (os, "link"),
    *((os, name) for name in ("scandir", "listdir")),
    (torch, "save"),
]


def arm(number: int, mode: str) -> list[str]:
    """Make the operation `number` of this process fail; the list that it counts them in.

    `error`: it raises; `dead disk`: it and all later ones raise; `kill`: the process is killed.
    """
    seen: list[str] = []

    def wrap(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == number and mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if len(seen) == number or (len(seen) > number and mode == "dead disk"):
                raise OSError(28, f"{name} failed as asked")
            return operation(*arguments, **options)

        return counted

    for module, name in OPERATIONS:
        setattr(module, name, wrap(name, getattr(module, name)))
    return seen


def in_child(action: Callable[[], int | None]) -> int:
    """Run `action` in a forked child: its result, 201 after an error of the disk, -9 if killed."""
    child = os.fork()
    if child == 0:
        status = 202
        signal.alarm(CHILD_SECONDS)
        try:
            status = action() or 0
        except (OSError, RuntimeError, IntegrityError, SafetensorError):  # the second is torch's
            status = 201
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


MODES = {"error": {0, 201}, "dead disk": {0, 201}, "kill": {-signal.SIGKILL}}
"""How an operation fails, and how the child that meets it may end."""


def crashes(
    disk: Path, before: Path, action: Callable[[Path], object], mode: str
) -> Iterator[tuple[Path, int]]:
    """Copies of `before`, in each of which another operation of `action` failed; how it ended."""

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
def test_a_crash_at_any_operation_leaves_old_or_new(
    disk: Path, table: Table, name: str, mode: str
) -> None:
    target, before = TARGETS[name], disk / "before"
    target.prepare(before)
    found = []
    for folder, status in crashes(disk, before, target.write, mode):
        found.append(target.read(folder))
        assert found[-1] == 2 or status != 0, "a write that did not raise was done"
        assert_no_leftovers(folder)
        target.write(folder)  # and it goes on from there
        assert target.read(folder) == 2
    table.played(len(found))
    assert set(found) == {1, 2}
    if mode == "kill":
        assert found == sorted(found), "old up to one operation, new from it on"


def damage_newest(folder: Path) -> None:
    for step in (1, 2):
        save_checkpoint(folder, step, state(step))
    os.truncate(folder / "00000002" / "state.pt", 1000)


@pytest.mark.promise(
    "R9", "the same while a damaged checkpoint is put aside", "the one before it loads"
)
@pytest.mark.parametrize("mode", MODES)
def test_a_crash_while_a_damaged_checkpoint_is_put_aside_loses_nothing(
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


PLACED = {
    **{name: (target.prepare, target.write) for name, target in TARGETS.items()},
    "damaged": (damage_newest, load_newest),
    "encoder": (Path.exists, lambda path: TrialFolder(path / "new").keep_encoder(write_weights(1))),
}
del PLACED["dropped weights"]  # nothing is written


@pytest.mark.promise(
    "R9", "a power cut after any operation", "a renamed file has its content and its name"
)
@pytest.mark.parametrize("name", PLACED)
def test_what_is_renamed_into_place_outlives_a_power_cut(
    disk: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content is synced before the rename, its name before anything older is removed."""
    prepare, write = PLACED[name]
    prepare(disk)
    fsync, before = os.fsync, {*disk.rglob("*"), disk, *disk.parents}
    synced: dict[Path, object] = {}
    entries: dict[Path, set[str]] = {}  # of synced folders
    placed: list[Path] = []

    def facts(path: Path) -> object:
        stat = path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def watched_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path] = facts(path)
        entries[path] = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        fsync(descriptor)

    def assert_placed_for_good() -> None:
        for path in placed:
            for new in {path, *path.parents} - before if path.exists() else ():
                assert new.name in entries[new.parent], f"{new} may be gone"

    def watched(rename: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def checked(source: Any, place: Any) -> None:
            if Path(source).name.startswith(TEMPORARY):
                for path in (Path(source), *Path(source).rglob("*")):
                    assert synced.get(path) == facts(path), f"{path} may be empty"
            if Path(place).name.startswith(TEMPORARY):
                assert_placed_for_good()
            else:
                placed.append(Path(place))
            rename(source, place)

        return checked

    monkeypatch.setattr(os, "fsync", watched_fsync)
    for operation in ("rename", "replace"):
        monkeypatch.setattr(os, operation, watched(getattr(os, operation)))
    write(disk)
    assert any(path.exists() for path in placed)
    assert_placed_for_good()


@pytest.mark.promise(
    "R9",
    "the size of files is limited (RLIMIT_FSIZE), at each byte of a save in turn",
    "the old one loads",
)
@pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL], ids=["error", "kill"])
@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("dropped")])
def test_a_crash_at_any_written_byte_leaves_old_or_new(
    disk: Path, table: Table, name: str, action: signal.Handlers
) -> None:
    """No file may grow past a limit: the write that would raises, or the process is killed."""
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
