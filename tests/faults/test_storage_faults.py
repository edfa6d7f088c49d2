"""What is on disk survives crashes, kills and corruption (promises R9, R10, R11, R22).

`ENSWEEP_FAULTS_SCALE` (default 1) multiplies the counts that are drawn at random: 100 kills, 300
corruptions and as many clean loads, 210 prediction files. At 1 every third write point is played,
and the last; above 1 each is.
At 1 they are played on a file system in memory where there is one, for what takes time is fsync;
above 1 on the disk of the temporary folder.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fault_table import Table
from scale import MANY, SCALE

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import TEMPORARY
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.schema import Outcome, OutcomeRecord
from trainable.config.tasks import Kind
from trainable.storage.checkpoint import load_newest, save_checkpoint
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

CHILD_SECONDS = 120
"""A forked child that hangs is killed after this, and its test fails."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread(no_ray: None) -> Iterator[None]:
    """A forked child has none of its parent's threads: torch and Ray must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to play faults in."""
    memory = Path("/dev/shm")
    if SCALE > 1 or not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def state(step: int, seed: int = 0) -> dict[str, Any]:
    weight = torch.randn(2500, generator=torch.Generator().manual_seed(1000 * seed + step))
    return {"step": step, "weight": weight}


def loaded_step(folder: Path) -> int:
    """The step of the newest checkpoint, every part of which is of that step."""
    found = load_newest(folder)
    assert found is not None
    step, content = found
    assert content["step"] == step
    assert torch.equal(content["weight"], state(step)["weight"])
    return step


# R9: a fault at every write point. Each target knows an old and a new state of its folder.


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
        except (OSError, RuntimeError, IntegrityError):  # torch's writer raises the second
            status = 201
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_no_leftovers(folder: Path) -> None:
    assert not list(folder.rglob(f"{TEMPORARY}*"))


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
    "each operation on the disk of a save, in turn, raises, kills the process or is the last one",
    "old or new is there, never a mixture; nothing of a half-written one after the next start",
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
    "R9", "a power cut after any operation", "what is renamed into place has its content and name"
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
    "R9", "no file may grow past any of its bytes (RLIMIT_FSIZE)", "the old one loads"
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


# R10


def save_for_ever(folder: Path, step: int, committed: int) -> None:
    while True:
        step += 1
        save_checkpoint(folder, step, state(step))
        os.write(committed, step.to_bytes(4))


@pytest.mark.promise(
    "R10", "SIGKILL at a random moment of saving", "the last saved checkpoint, or the next, loads"
)
def test_kills_while_saving_lose_nothing_that_was_saved(disk: Path, table: Table) -> None:
    table.played(100 * SCALE)
    draw = random.Random(10)
    step, num_interrupted = 1, 0
    save_checkpoint(disk, step, state(step))
    for number in range(100 * SCALE):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(CHILD_SECONDS)
            try:
                save_for_ever(disk, step, writer)
            finally:
                os._exit(1)
        os.close(writer)
        first = os.read(reader, 4) if number % 2 else b""  # every other child gets somewhere
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(reader, "rb") as committed:
            last = int.from_bytes((first + committed.read())[-4:]) or step
        num_interrupted += any(disk.glob(f"{TEMPORARY}*"))
        step = loaded_step(disk)
        assert step in (last, last + 1)
        assert_no_leftovers(disk)
        assert not (disk / "quarantine").exists()
    assert num_interrupted > 0
    assert step > 50 * SCALE


# R11


def flip_bit(draw: random.Random, generation: Path, foreign: Path) -> None:
    path = draw.choice([generation / "state.pt", generation / MANIFEST])
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(draw: random.Random, generation: Path, foreign: Path) -> None:
    path = draw.choice([generation / "state.pt", generation / MANIFEST])
    os.truncate(path, draw.randrange(path.stat().st_size))


def zero_page(draw: random.Random, generation: Path, foreign: Path) -> None:
    path = draw.choice([generation / "state.pt", generation / MANIFEST])
    content = path.read_bytes()
    start = draw.randrange(0, len(content), 4096)
    zeroed = content[:start] + bytes(len(content[start : start + 4096])) + content[start + 4096 :]
    assert zeroed != content
    path.write_bytes(zeroed)


def swap_files(draw: random.Random, generation: Path, foreign: Path) -> None:
    one, previous = generation / "state.pt", generation.parent / "00000001"
    other = draw.choice([generation / MANIFEST, foreign / "state.pt", previous / "state.pt"])
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    if other.parent == generation:
        other.write_bytes(content)


def remove_file(draw: random.Random, generation: Path, foreign: Path) -> None:
    draw.choice([generation / "state.pt", generation / MANIFEST]).unlink()


def foreign_manifest(draw: random.Random, generation: Path, foreign: Path) -> None:
    other = draw.choice([foreign, generation.parent / "00000001"])
    shutil.copy(other / MANIFEST, generation / MANIFEST)


def add_file(draw: random.Random, generation: Path, foreign: Path) -> None:
    (generation / f"extra-{draw.randrange(100)}").write_bytes(b"x" * draw.randrange(2))


def whole_of_another_step(draw: random.Random, generation: Path, foreign: Path) -> None:
    shutil.rmtree(generation)
    shutil.copytree(generation.parent / "00000001", generation)


CORRUPTIONS = (
    *(flip_bit, truncate, zero_page, swap_files, remove_file, foreign_manifest, add_file),
    whole_of_another_step,
)


@pytest.mark.promise(
    "R11",
    "checkpoints with flipped bits, cut, zeroed, swapped, missing, foreign, added files",
    "each found and put aside, the one before loads; no false alarm in as many sound loads",
)
def test_every_corruption_is_found_and_nothing_else_is(disk: Path, table: Table) -> None:
    table.played(300 * SCALE)
    draw = random.Random(11)
    for step in (1, 2):
        save_checkpoint(disk / "clean", step, state(step))
        save_checkpoint(disk / "foreign", step, state(step, seed=1))
    foreign = disk / "foreign" / "00000002"
    for number in range(300 * SCALE):
        corrupt = CORRUPTIONS[number % len(CORRUPTIONS)]
        folder = disk / "corrupt"
        shutil.copytree(disk / "clean", folder)
        corrupt(draw, folder / "00000002", foreign)
        damaged = contents(folder / "00000002")
        assert loaded_step(folder) == 1, corrupt.__name__
        assert contents(folder / "quarantine" / "00000002-0") == damaged
        shutil.rmtree(folder)
        assert loaded_step(disk / "clean") == 2
    assert not (disk / "clean" / "quarantine").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# R22


def predictions(draw: random.Random) -> Predictions:
    kind = draw.choice([Kind.CLASSIFICATION, Kind.PARAPHRASE, Kind.SIMILARITY])
    num_rows = draw.randint(2, 60)
    numbers = np.random.default_rng(draw.randrange(2**32))
    shape = (num_rows, draw.randint(2, 5)) if kind is Kind.CLASSIFICATION else (num_rows,)
    return Predictions(
        task_name="mood",
        kind=kind,
        split="dev",
        ids=tuple(f"{draw.randrange(2**64):x}" for _ in range(num_rows)),
        outputs=numbers.normal(size=shape).astype(np.float32),
        labels=draw.choice([None, numbers.integers(2, size=num_rows).astype(np.float64)]),
        data_fingerprint="data",
        tokenizer="words",
    )


def accept(path: Path) -> Predictions:
    """What a reader does who wants the dev predictions of one task, data and tokenizer."""
    found = Predictions.read(path)
    found.require(path, task_name="mood", split="dev", data_fingerprint="data", tokenizer="words")
    return found


def cut_off(draw: random.Random, path: Path) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def rearrange(path: Path, rows: list[int]) -> None:
    """Other rows under the header that the file had."""
    table = pq.read_table(path)
    pq.write_table(table.take(rows), path)
    assert b"ensweep" in pq.read_schema(path).metadata


def reorder(draw: random.Random, path: Path) -> None:
    rows = list(range(pq.read_metadata(path).num_rows))
    one, other = draw.sample(rows, 2)
    shuffled = draw.sample(rows, len(rows))
    rows[one], rows[other] = rows[other], rows[one]
    rearrange(path, draw.choice([rows, shuffled if shuffled != sorted(rows) else rows]))


def duplicate(draw: random.Random, path: Path) -> None:
    rows = list(range(pq.read_metadata(path).num_rows))
    one, other = draw.sample(rows, 2)
    replaced = [one if row == other else row for row in rows]
    rearrange(path, draw.choice([replaced, [*rows, one], rows * 2, rows[:one] + rows[one + 1 :]]))


def make_foreign(draw: random.Random, path: Path) -> None:
    key, value = draw.choice(
        [
            ("task_name", "other"),
            ("split", "train"),
            ("data_fingerprint", "later"),
            ("tokenizer", "letters"),
        ]
    )
    replace(Predictions.read(path), **{key: value}).write(path)  # type: ignore[arg-type]


def edit_header(draw: random.Random, path: Path) -> None:
    """Another value, or none, for one key of the header; all else as it was."""
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"ensweep"])
    part = draw.choice([header, *header["parts"]])
    key = draw.choice(sorted(part))
    other = draw.choice([None, "other", part[key] * 2, draw.choice(list(part.values())), ...])
    if other in (..., part[key]):
        del part[key]
    else:
        part[key] = other
    pq.write_table(table.replace_schema_metadata({"ensweep": json.dumps(header)}), path)


def edit_number(draw: random.Random, path: Path) -> None:
    """The next number above in one cell; the header as it was."""
    table = pq.read_table(path)
    column = draw.randrange(2, table.num_columns)  # after the task and the id
    numbers = table.column(column).to_numpy().copy()
    row = draw.randrange(len(numbers))
    numbers[row] = np.nextafter(numbers[row], np.array(np.inf, numbers.dtype))
    changed = table.set_column(column, table.column_names[column], pa.array(numbers))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def make_other_format(draw: random.Random, path: Path) -> None:
    table = pq.read_table(path)
    write: list[Callable[[], object]] = [
        lambda: path.write_text(json.dumps(table.to_pylist())),
        lambda: path.write_text(table.to_pandas().to_csv()),
        lambda: pq.write_table(table.replace_schema_metadata({}), path),
        lambda: np.save(path.open("wb"), np.arange(9)),
    ]
    draw.choice(write)()


HARM = (cut_off, reorder, duplicate, make_foreign, edit_header, edit_number, make_other_format)


@pytest.mark.promise(
    "R22",
    "prediction files that are cut, reordered, doubled, foreign, edited, of another format",
    "refused by name, exit 6; nothing is aligned by guess",
)
def test_predictions_that_do_not_fit_are_refused_by_name(disk: Path, table: Table) -> None:
    table.played(210 * SCALE)
    draw = random.Random(22)
    for number in range(210 * SCALE):
        path = disk / f"{number:04d}.parquet"
        written = predictions(draw)
        written.write(path)
        assert accept(path).outputs.tobytes() == written.outputs.tobytes()
        harm = HARM[number % len(HARM)]
        harm(draw, path)
        with pytest.raises(IntegrityError) as refused:
            accept(path)
        assert str(refused.value).startswith(f"{path}: "), harm.__name__
        assert refused.value.exit_code == 6


@pytest.mark.promise(
    "R22", "a flipped bit of a prediction file", "refused, or no number is another"
)
def test_flipped_bits_in_predictions_never_change_a_number(disk: Path, table: Table) -> None:
    """A bit that no reader looks at may flip; all others are noticed."""
    table.played(100 * SCALE)
    draw = random.Random(23)
    num_refused = 0
    for _ in range(100 * SCALE):
        path = disk / "file.parquet"
        written = predictions(draw)
        written.write(path)
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            found = accept(path)
        except IntegrityError:
            num_refused += 1
        else:
            assert found.ids == written.ids
            assert found.outputs.tobytes() == written.outputs.tobytes()
    assert num_refused > 0
