"""R11, R22: corrupt checkpoints and prediction files are detected."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_table import Table
from scale import SCALE
from stored_steps import contents, loaded_step, state

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST
from trainable.config.tasks import Kind
from trainable.storage.checkpoint import save_checkpoint
from trainable.storage.predictions import Predictions

pytestmark = pytest.mark.usefixtures("one_thread")


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


def replace_by_older_step(draw: random.Random, generation: Path, foreign: Path) -> None:
    shutil.rmtree(generation)
    shutil.copytree(generation.parent / "00000001", generation)


CORRUPTIONS = (
    *(flip_bit, truncate, zero_page, swap_files, remove_file, foreign_manifest, add_file),
    replace_by_older_step,
)


@pytest.mark.promise(
    "R11",
    "checkpoints with flipped bits, cut, zeroed, swapped, missing, foreign, added files",
    "each is detected and put aside, the previous one loads; no false alarm in as many loads "
    "of valid ones",
)
def test_r11_corrupt_checkpoints_are_detected_and_valid_ones_load(disk: Path, table: Table) -> None:
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
    """Read dev predictions of one task, data and tokenizer."""
    found = Predictions.read(path)
    found.require(path, task_name="mood", split="dev", data_fingerprint="data", tokenizer="words")
    return found


def cut_off(draw: random.Random, path: Path) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def rearrange(path: Path, rows: list[int]) -> None:
    """Replace the rows, but keep the header."""
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
    """Change or delete one key of the header."""
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
    """Replace one value by the next larger float, but keep the header."""
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


DAMAGES = (cut_off, reorder, duplicate, make_foreign, edit_header, edit_number, make_other_format)


@pytest.mark.promise(
    "R22",
    "prediction files that are cut, reordered, duplicated, foreign, edited, of another format",
    "refused by name, exit 6; nothing is aligned by guess",
)
def test_r22_damaged_predictions_are_refused(disk: Path, table: Table) -> None:
    table.played(210 * SCALE)
    draw = random.Random(22)
    for number in range(210 * SCALE):
        path = disk / f"{number:04d}.parquet"
        written = predictions(draw)
        written.write(path)
        assert accept(path).outputs.tobytes() == written.outputs.tobytes()
        damage = DAMAGES[number % len(DAMAGES)]
        damage(draw, path)
        with pytest.raises(IntegrityError) as refused:
            accept(path)
        assert str(refused.value).startswith(f"{path}: "), damage.__name__
        assert refused.value.exit_code == 6


@pytest.mark.promise(
    "R22", "a flipped bit of a prediction file", "refused, or every number is unchanged"
)
def test_r22_flipped_bits_are_refused_or_change_no_number(disk: Path, table: Table) -> None:
    """Some bits of a Parquet file are not read."""
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
