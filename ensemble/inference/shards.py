"""Labels of a large file as a folder of shards, each written atomically.

    shards.json          fingerprints of the bundle and of the input, and the settings
    labels-00000.csv     the labels of the first rows, in the input's order; .json with --json
    manifest.json        size and SHA-256 of every file, written last

An interrupted run can be repeated: only the missing shards are written.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.inference.ensemble import Ensemble
from ensemble.inference.label_files import csv_parts, json_parts
from ensemble.inference.sentence_files import count_rows, read_file
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.atomic import must_write, write_atomic
from mlflow_setup.filesystem.manifest import MANIFEST, find_damage, sha256_file, write_manifest
from mlflow_setup.filesystem.modes import users_mask
from mlflow_setup.filesystem.output import make_folder
from mlflow_setup.filesystem.storage import TEMPORARY, remove_leftovers
from trainable.data.tables import reading
from trainable.runtime.progress import Tally

SHARDS = "shards.json"
FACTS = {"format": "ensweep-labels", "schema_version": 1}
"""The fields of a folder's manifest besides its files."""


@dataclass(frozen=True)
class Work:
    """The bundle, input and settings of a folder of shards; a folder of others is refused."""

    bundle: str  # SHA-256 of the bundle's manifest
    input: str  # SHA-256 of the input file
    tasks: tuple[str, ...]
    rows: int  # per shard
    form: str  # csv or json
    precision: str


Shard = tuple[int, pd.DataFrame]
"""The number of a shard and its sentences."""
Label = Callable[[Iterator[Shard]], Iterator[tuple[int, str]]]
"""From shards of sentences to (number, content of the shard's file), in any order."""


def write_shards(
    ensemble: Ensemble,
    source: Path,
    tasks: list[str],
    output: Path,
    num_rows: int,
    as_json: bool = False,
    label: Label | None = None,
) -> tuple[int, int]:
    """Label a file shard by shard, skipping the shards that already exist.

    Args:
        num_rows: rows per shard.
        label: labels the shards; default: this process, one shard after another.

    Returns:
        The number of shards in the folder now, and how many of them existed before.

    Raises:
        ConfigError: `output` holds something else, or labels of another input, by another bundle or
            with other settings; or it cannot be written.
        DataError: as `read_file`; shards written before the defect are kept.
        IntegrityError: the finished labels have been changed.
    """
    work = _work(ensemble, source, tasks, num_rows, as_json)
    with must_write(output):
        _claim(output, work)
    if (output / MANIFEST).is_file():
        damage = find_damage(output, FACTS)
        if damage is not None:
            raise IntegrityError(f"{output}: not intact: {damage}", fix="name a new folder")
        num_shards = len(list(output.glob("labels-*")))
        return num_shards, num_shards
    label = label or (
        lambda shards: ((n, contents(ensemble, tasks, as_json, rows)) for n, rows in shards)
    )
    paths: list[Path] = []
    existed: list[bool] = []
    count = count_rows(source)
    tally = Tally("labelling shards", count and math.ceil(count / num_rows))

    def missing() -> Iterator[Shard]:
        records = [ensemble.tasks[name] for name in tasks]
        for number, rows in enumerate(read_file(source, records, num_rows)):
            paths.append(output / f"labels-{number:05}.{work.form}")
            existed.append(paths[-1].is_file())
            if existed[-1]:
                tally.add()
            else:
                yield number, rows

    for number, text in label(missing()):
        with must_write(output):
            write_atomic(paths[number], text, users_mask())
        tally.add(1, num_rows)
    with must_write(output):
        write_manifest(output, FACTS, users_mask())
    return len(paths), sum(existed)


def contents(ensemble: Ensemble, tasks: list[str], as_json: bool, sentences: pd.DataFrame) -> str:
    """Return the content of one shard's file."""
    labelled = [(sentences, ensemble.label(sentences, tasks))]
    return "".join(json_parts(tasks, labelled) if as_json else csv_parts(labelled))


def bundle_fingerprint(ensemble: Ensemble) -> str:
    """Return the SHA-256 of the bundle's manifest, which has that of every other file."""
    return sha256_file(ensemble.bundle.folder / MANIFEST)


def _work(ensemble: Ensemble, source: Path, tasks: list[str], num_rows: int, as_json: bool) -> Work:
    with reading(source):
        fingerprint = sha256_file(source)
    return Work(
        bundle=bundle_fingerprint(ensemble),
        input=fingerprint,
        tasks=tuple(tasks),
        rows=num_rows,
        form="json" if as_json else "csv",
        precision=ensemble.precision,
    )


def _claim(output: Path, work: Work) -> None:
    """Create the folder for this work, or check that it is of the same work."""
    path, expected = output / SHARDS, {**FACTS, **asdict(work), "tasks": list(work.tasks)}
    if not path.exists():
        names = [entry.name for entry in output.iterdir()] if output.is_dir() else []
        if (output.exists() and not output.is_dir()) or not all(
            name.startswith(TEMPORARY) for name in names
        ):
            raise ConfigError(f"{output} already exists", fix="name a new folder")
        make_folder(output)
        write_atomic(path, json.dumps(expected, indent=1), users_mask())
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise IntegrityError(f"{path}: not a JSON object", fix="name a new folder")
    changed = [key for key in {**expected, **stored} if stored.get(key) != expected.get(key)]
    if changed:
        raise ConfigError(
            f"{output}: holds labels of other work; {SHARDS} differs in {', '.join(changed)}",
            fix="use the same bundle, input and settings as before, or name a new folder",
        )
    remove_leftovers(output)
