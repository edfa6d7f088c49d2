"""Labels of millions of rows as a folder of shards, each of them whole or not there.

    shards.json          what is labelled by what: fingerprints of the bundle and of the input
    labels-00000.csv     the labels of the first rows, in the input's order; .json with --json
    manifest.json        size and SHA-256 of every file, written last

Started again, the work goes on with the shards that are not there.
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
"""What the manifest of a folder of labels says beside its files."""


@dataclass(frozen=True)
class Work:
    """What the shards of a folder are of. Other work is refused."""

    bundle: str  # SHA-256 of the bundle's manifest
    input: str  # SHA-256 of the file
    tasks: tuple[str, ...]
    rows: int  # of a shard
    form: str  # csv or json
    precision: str


Shard = tuple[int, pd.DataFrame]
"""The number of a shard and its sentences."""
Label = Callable[[Iterator[Shard]], Iterator[tuple[int, str]]]
"""Shards of sentences -> numbered contents of their files, in any order."""


def write_shards(
    ensemble: Ensemble,
    source: Path,
    tasks: list[str],
    output: Path,
    num_rows: int,
    as_json: bool = False,
    label: Label | None = None,
) -> tuple[int, int]:
    """Label a file shard by shard, leaving out those that are there already.

    Args:
        label: who does it; default: this process, one shard after another.

    Returns:
        How many shards the folder has now, and how many of them were there before.

    Raises:
        ConfigError: `output` holds something else, or the labels of another input, by another
            bundle or with other settings; or it cannot be written.
        DataError: as `read_file`; whole shards before the defect stay.
        IntegrityError: the labels were finished and have been changed since.
    """
    work = _work(ensemble, source, tasks, num_rows, as_json)
    with must_write(output):
        _claim(output, work)
    if (output / MANIFEST).is_file():
        damage = find_damage(output, FACTS)
        if damage is not None:
            raise IntegrityError(f"{output}: not whole: {damage}", fix="name a new folder")
        num_found = len(list(output.glob("labels-*")))
        return num_found, num_found
    label = label or (
        lambda shards: ((n, contents(ensemble, tasks, as_json, rows)) for n, rows in shards)
    )
    paths: list[Path] = []
    was_there: list[bool] = []
    count = count_rows(source)
    tally = Tally("labelling shards", count and math.ceil(count / num_rows))

    def missing() -> Iterator[Shard]:
        records = [ensemble.tasks[name] for name in tasks]
        for number, rows in enumerate(read_file(source, records, num_rows)):
            paths.append(output / f"labels-{number:05}.{work.form}")
            was_there.append(paths[-1].is_file())
            if was_there[-1]:
                tally.add()
            else:
                yield number, rows

    for number, text in label(missing()):
        with must_write(output):
            write_atomic(paths[number], text, users_mask())
        tally.add(1, num_rows)
    with must_write(output):
        write_manifest(output, FACTS, users_mask())
    return len(paths), sum(was_there)


def contents(ensemble: Ensemble, tasks: list[str], as_json: bool, sentences: pd.DataFrame) -> str:
    """The file of one shard."""
    labelled = [(sentences, ensemble.label(sentences, tasks))]
    return "".join(json_parts(tasks, labelled) if as_json else csv_parts(labelled))


def bundle_fingerprint(ensemble: Ensemble) -> str:
    """SHA-256 of the bundle's manifest, which has that of every other file."""
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
    """Make the folder this work's, or prove that it is."""
    path, wanted = output / SHARDS, {**FACTS, **asdict(work), "tasks": list(work.tasks)}
    if not path.exists():
        names = [place.name for place in output.iterdir()] if output.is_dir() else []
        if (output.exists() and not output.is_dir()) or not all(
            name.startswith(TEMPORARY) for name in names
        ):
            raise ConfigError(f"{output} is there already", fix="name a new folder")
        make_folder(output)
        write_atomic(path, json.dumps(wanted, indent=1), users_mask())
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise IntegrityError(f"{path}: does not say what is labelled", fix="name a new folder")
    other = [key for key in {**wanted, **stored} if stored.get(key) != wanted.get(key)]
    if other:
        raise ConfigError(
            f"{output}: holds labels of other work: {', '.join(other)} differ(s) from {SHARDS}",
            fix="give the same bundle, input and settings as before, or name a new folder",
        )
    remove_leftovers(output)
