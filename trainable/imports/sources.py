"""Reading a user's data: CSV, TSV, JSON, Parquet, a folder of such files, a data set saved by
Hugging Face's `datasets`, or one of its hub.

The delimiter and quoting of text are detected: those by which most rows have as many cells as the
first. `trainable.imports.finding` detects the meaning of the columns.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.filesystem.paths import near_file
from mlflow_setup.text import NUM_SHOWN, first_line, printable
from mlflow_setup.uris import is_uri
from trainable.config.tasks import Quoting, Split
from trainable.data.defects import FIXES
from trainable.data.public_datasets import hub_files
from trainable.data.tables import (
    DELIMITERS,
    WRITE_AGAIN,
    Fault,
    UnreadableError,
    class_names,
    form_of,
    is_json_lines,
    json_rows,
    parquet_rows,
    reading,
    table_rows,
    with_class_names,
)
from trainable.imports.decoding import read_lines

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".arrow")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+){1,2}", re.ASCII)
_WORDS: dict[Split, str] = {
    "train": r"train(ing)?",
    "dev": r"dev|valid(ation)?|val|eval",
    "test": r"test(ing)?",
}
_NUM_SAMPLED = 500
"""Number of lines from which delimiter and quoting are detected."""


@dataclass(frozen=True)
class Form:
    """How a delimited file is written; None: detected."""

    delimiter: str | None = None
    quoting: Quoting | None = None
    header: tuple[str, ...] | None = None  # names of the columns, if the file has no header line
    encoding: str | None = None


FORM = Form()


@dataclass(frozen=True)
class Source:
    """The rows of one split, or of a whole data set."""

    name: str
    split: Split | None  # None: a data set without splits
    form: str  # description of the format
    rows: list[dict[str, Any]]  # column -> value
    places: list[str]  # location of each row, `dev.csv:5`

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order of their first occurrence."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row))


def read_sources(place: str, form: Form = FORM) -> list[Source]:
    """The splits of `place`: a file, a folder, or a data set of the hub.

    Raises:
        ConfigError: it does not exist, has several data sets, or no training split.
        DataError: a file or row cannot be read, there are no rows, or the hub cannot be reached.
    """
    path = Path(place)
    if path.is_file():
        sources = [_read(path, form)]
    elif path.is_dir():
        sources = _read_folder(path, form)
    elif _HUB_NAME.fullmatch(place) and path.suffix.lower() not in SUFFIXES:
        sources = _read_hub(place, form)
    else:
        fix = "name a file, a folder, or a data set of the hub: owner/name"
        if is_uri(place):
            fix = f"download it first: curl -LO {place}"
        raise ConfigError(f"{place}: there is no such file or folder{near_file(path)}", fix=fix)
    if len(sources) == 1 and sources[0].split is None:
        sources = [replace(sources[0], split="train")]
    if not any(source.split == "train" for source in sources):
        names = ", ".join(source.name for source in sources)
        raise ConfigError(f"{place}: no split to train on: {names}", fix="name a file")
    for source in sources:
        if not source.rows:
            raise DataError(f"{source.name}: has no rows", fix=FIXES["D13"])
    return sources


def _read_folder(folder: Path, form: Form) -> list[Source]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved_by_datasets(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    paths = [path for path in paths if not path.name.startswith((".", "dataset_info"))]
    if not paths:
        raise ConfigError(f"{folder}: no file that ends in {', '.join(SUFFIXES)}")
    splits = {path: _split_of(path.relative_to(folder).as_posix()) for path in paths}
    unknown = [path for path, split in splits.items() if split is None]
    if unknown and len(paths) > 1:
        raise ConfigError(
            f"{unknown[0]}: its name contains neither train, dev nor test",
            fix="name one file, or rename them: reviews-train.csv, reviews-dev.csv",
        )
    return _by_split([replace(_read(path, form), split=splits[path]) for path in paths])


def _by_split(sources: Sequence[Source]) -> list[Source]:
    """One source per split, joined from those of its files."""
    joined: dict[Split | None, Source] = {}
    for source in sources:
        first = joined.get(source.split)
        if first is None:
            joined[source.split] = source
        elif set(first.columns) != set(source.columns):
            raise ConfigError(
                f"{source.name}: other columns than {first.name}, of the same split: "
                f"{printable(', '.join(source.columns))}",
                fix="import them one by one, with --task",
            )
        else:
            rows, places = first.rows + source.rows, first.places + source.places
            joined[source.split] = replace(first, rows=rows, places=places)
    return [joined[split] for split in (*_WORDS, None) if split in joined]


def _split_of(name: str) -> Split | None:
    """The split in the name of a file, else of its folders."""
    for part in reversed(name.lower().split("/")):
        for split, words in _WORDS.items():
            if re.search(rf"(?<![a-z])({words})(?![a-z])", part):
                return split
    return None


def _saved_by_datasets(folder: Path) -> list[Source]:
    """The data set in a folder of `save_to_disk`: Arrow files, listed in state.json."""
    is_split = (folder / "state.json").is_file()  # else dataset_dict.json lists the splits
    content = {} if is_split else _json(folder / "dataset_dict.json")
    names = content.get("splits", [""]) if isinstance(content, dict) else [""]
    sources = []
    for name in names:
        state = _json(folder / str(name) / "state.json")
        files = state.get("_data_files", []) if isinstance(state, dict) else []
        paths = [folder / str(name) / str(entry["filename"]) for entry in files]
        parts = [_read(path, FORM) for path in paths]
        rows = [row for part in parts for row in part.rows]
        places = [place for part in parts for place in part.places]
        split = _split_of(str(name)) if name else None
        if name and split is None:
            continue  # for example `unsupervised`
        sources.append(Source(f"{folder}/{name}".rstrip("/"), split, "Arrow", rows, places))
    return sources


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None


def _read_hub(name: str, form: Form) -> list[Source]:
    """A data set's own files, else the hub's conversion to Parquet."""
    repository, subset = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    paths = hub_files(repository, lambda listed: _data_files(listed, subset, name))
    if not paths:
        raise ConfigError(
            f"{name}: the data set has no data files that can be read", fix="convert it to CSV"
        )
    sources = [
        replace(_read(path, form), split=_split_of(file), name=f"{repository}/{file}")
        for file, path in paths.items()
    ]
    return _by_split(sources if len(sources) == 1 else [s for s in sources if s.split is not None])


def _data_files(listed: Sequence[str], subset: str, name: str) -> list[str]:
    """The data files of one subset, in the format that most of them have."""
    files = [file for file in listed if Path(file).suffix.lower() in SUFFIXES]
    files = [file for file in files if not file.startswith(".") and "/." not in file]
    if subset:
        files = [file for file in files if file.startswith(f"{subset}/")]
    by_suffix = Counter(Path(file).suffix for file in files if _split_of(file))
    if by_suffix:
        suffix = by_suffix.most_common(1)[0][0]
        files = [file for file in files if Path(file).suffix == suffix and _split_of(file)]
    folders = sorted({file.split("/")[0] for file in files if "/" in file} - {"data"})
    if len(folders) > 1 and not subset:
        raise ConfigError(
            f"{name}: has {len(folders)} subsets: {', '.join(folders[:NUM_SHOWN])}",
            fix=f"name one: {name}/{folders[0]}",
        )
    return files


def _read(path: Path, form: Form) -> Source:
    """The rows of one file."""
    suffix = path.suffix.lower()
    with reading(path):
        if suffix == ".parquet":
            return _from_records(path, "Parquet", parquet_rows(path, with_names=True))
        if suffix == ".arrow":
            return _from_records(path, "Arrow", _arrow_rows(path))
        lines, encoding = read_lines(path, form.encoding)
    if suffix == ".json" and "".join(lines).lstrip().startswith("["):
        content = _json(path)
        records = content if isinstance(content, list) else []
        return _from_records(path, "JSON", enumerate(records, 1))
    if suffix == ".json" or is_json_lines(path):
        return _from_records(path, "JSON lines", json_rows(lines))
    source = _from_text(path, lines, form)
    if not encoding:
        return source
    return replace(source, form=f"{source.form}, text in {encoding} (--encoding)")


def _from_records(path: Path, form: str, rows: Any) -> Source:
    """A source of objects, one per row."""
    kept: list[dict[str, Any]] = []
    places = []
    for number, row in rows:
        if isinstance(row, Fault) or not isinstance(row, dict):
            problem = row.message if isinstance(row, Fault) else "is not a JSON object"
            raise DataError(f"{path}:{number}: {problem}", fix=FIXES["D16"])
        kept.append(row)
        places.append(f"{path.name}:{number}")
    return Source(str(path), None, form, kept, places)


def _arrow_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as memory, pa.ipc.open_stream(memory) as stream:
            names, number = class_names(stream.schema.metadata), 0
            for batch in stream:
                for row in batch.to_pylist():
                    number += 1
                    yield number, with_class_names(row, names)
    except pa.ArrowException as error:
        raise UnreadableError(0, f"cannot be read: {first_line(error)}", WRITE_AGAIN) from None


def _from_text(path: Path, lines: list[str], form: Form) -> Source:
    """A source of delimited text, in which every row must have as many cells as the header."""
    usual = ["\t"] if path.suffix.lower() == ".tsv" else [",", "\t", ";", "|"]
    delimiters = [form.delimiter] if form.delimiter else usual
    quotings = [form.quoting] if form.quoting else get_args(Quoting)
    delimiter, quoting = form_of(lines[:_NUM_SAMPLED], delimiters, quotings)
    rows = table_rows(lines, delimiter, quoting)
    header = list(form.header or ())
    kept: list[dict[str, Any]] = []
    places, bad = [], []
    for line, row in rows:
        place = f"{path.name}:{line}"
        if isinstance(row, Fault):
            bad.append(f"{place}: {row.message}")
        elif not header:
            header = [name.strip() for name in row]
            duplicates = [name for name in header if header.count(name) > 1 and name]
            if duplicates:
                raise DataError(f"{place}: column {duplicates[0]} occurs twice in the header")
        elif len(row) != len(header):
            bad.append(f"{place}: {len(row)} cells, the header has {len(header)}")
        else:
            kept.append({name: cell for name, cell in zip(header, row, strict=True) if name})
            places.append(place)
    written = f"{DELIMITERS.get(delimiter, repr(delimiter))} between cells"
    written += ", which may be quoted" if quoting == "standard" else ", quotation marks are letters"
    if bad:
        more = f"\n  ... and {len(bad) - NUM_SHOWN} more" if len(bad) > NUM_SHOWN else ""
        raise DataError(
            f"{path}: {len(bad)} row(s) cannot be read, with {written}:\n  "
            + "\n  ".join(map(printable, bad[:NUM_SHOWN]))
            + more,
            fix="correct them, or say how the file is written: --delimiter, --quoting",
        )
    return Source(str(path), None, written, kept, places)
