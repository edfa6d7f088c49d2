"""A user's own data -> rows: CSV, TSV, JSON, Parquet, a folder of such files, what
Hugging Face's `datasets` saved, or a data set of its hub.

Of delimited text the delimiter and the quoting are found: those by which most rows have as many
cells as the first. Which column is what is `trainable.imports.finding`'s business.
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
    WRITE_ANEW,
    Fault,
    UnreadableError,
    class_names,
    form_of,
    is_json_lines,
    json_rows,
    named,
    parquet_rows,
    reading,
    table_rows,
)
from trainable.imports.decoding import read_lines

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".arrow")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+){0,2}", re.ASCII)
_WORDS: dict[Split, str] = {
    "train": r"train(ing)?",
    "dev": r"dev|valid(ation)?|val|eval",
    "test": r"test(ing)?",
}
_LOOKED_AT = 500
"""Lines by which the delimiter is found."""


@dataclass(frozen=True)
class Form:
    """How a delimited file is written; None: found."""

    delimiter: str | None = None
    quoting: Quoting | None = None
    header: tuple[str, ...] | None = None  # of a file without a header line
    encoding: str | None = None


FORM = Form()


@dataclass(frozen=True)
class Source:
    """The rows of one split as they were found, or of all of it."""

    name: str
    split: Split | None
    form: str  # in words
    rows: list[dict[str, Any]]  # column -> value
    places: list[str]  # of each row

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns in the order in which rows have them."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row))


def read_sources(place: str, form: Form = FORM) -> list[Source]:
    """The splits that are at `place`: a file, a folder, or a data set of the hub.

    Raises:
        ConfigError: nothing is there, or more than one data set is.
        DataError: a file that cannot be read, a row without its cells, no rows; or the hub cannot
            be reached.
    """
    path = Path(place)
    if path.is_file():
        sources = [_read(path, form)]
    elif path.is_dir():
        sources = _of_folder(path, form)
    elif _HUB_NAME.fullmatch(place) and path.suffix.lower() not in SUFFIXES:
        sources = _of_hub(place, form)
    else:
        fix = "name a file, a folder, or a data set of the hub: owner/name"
        if is_uri(place):
            fix = f"fetch it first: curl -LO {place}"
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


def _of_folder(folder: Path, form: Form) -> list[Source]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved_by_datasets(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    paths = [path for path in paths if not path.name.startswith((".", "dataset_info"))]
    if not paths:
        raise ConfigError(f"{folder}: no file that ends in {', '.join(SUFFIXES)}")
    named_as = {path: _split_of(path.relative_to(folder).as_posix()) for path in paths}
    unknown = [path for path, split in named_as.items() if split is None]
    if unknown and len(paths) > 1:
        raise ConfigError(
            f"{unknown[0]}: its name says neither train, dev nor test",
            fix="name one file, or rename them: reviews-train.csv, reviews-dev.csv",
        )
    return _joined([replace(_read(path, form), split=named_as[path]) for path in paths])


def _joined(sources: Sequence[Source]) -> list[Source]:
    """One for each split: the parts of one belong together."""
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
    """The split that a file's name, or else its folder's, speaks of."""
    for part in reversed(name.lower().split("/")):
        for split, words in _WORDS.items():
            if re.search(rf"(?<![a-z])({words})(?![a-z])", part):
                return split
    return None


def _saved_by_datasets(folder: Path) -> list[Source]:
    """What `save_to_disk` wrote: Arrow files, which state.json lists."""
    content = (
        _json(folder / "dataset_dict.json") if (folder / "state.json").is_file() is False else {}
    )
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
            continue  # e.g. `unsupervised`
        sources.append(Source(f"{folder}/{name}".rstrip("/"), split, "Arrow", rows, places))
    return sources


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None


def _of_hub(name: str, form: Form) -> list[Source]:
    """A data set's files: its own, or else the hub's conversion to Parquet."""
    repository, subset = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    paths = hub_files(repository, lambda listed: _data_files(listed, subset, name))
    if not paths:
        raise ConfigError(f"{name}: the data set has no file of data", fix="bring it as CSV")
    sources = [
        replace(_read(path, form), split=_split_of(file), name=f"{repository}/{file}")
        for file, path in paths.items()
    ]
    return _joined(sources if len(sources) == 1 else [s for s in sources if s.split is not None])


def _data_files(listed: Sequence[str], subset: str, name: str) -> list[str]:
    """Files of one subset, of the form that most of them have."""
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
            return _of_rows(path, "Parquet", parquet_rows(path, with_names=True))
        if suffix == ".arrow":
            return _of_rows(path, "Arrow", _arrow_rows(path))
        lines, encoding = read_lines(path, form.encoding)
    if suffix == ".json" and "".join(lines).lstrip().startswith("["):
        content = _json(path)
        return _of_rows(path, "JSON", enumerate(content if isinstance(content, list) else [], 1))
    if suffix == ".json" or is_json_lines(path):
        return _of_rows(path, "JSON lines", json_rows(lines))
    source = _of_text(path, lines, form)
    said = f"{source.form}, text in {encoding} (--encoding)" if encoding else source.form
    return replace(source, form=said)


def _of_rows(path: Path, form: str, rows: Any) -> Source:
    """Objects, a row each."""
    kept: list[dict[str, Any]] = []
    places = []
    for number, row in rows:
        if isinstance(row, Fault) or not isinstance(row, dict):
            why = row.message if isinstance(row, Fault) else "is not an object of columns"
            raise DataError(f"{path}:{number}: {why}", fix=FIXES["D16"])
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
                    yield number, named(row, names)
    except pa.ArrowException as error:
        raise UnreadableError(0, f"cannot be read: {first_line(error)}", WRITE_ANEW) from None


def _of_text(path: Path, lines: list[str], form: Form) -> Source:
    """Delimited text, every row of which has to have as many cells as the header."""
    usual = ["\t"] if path.suffix.lower() == ".tsv" else [",", "\t", ";", "|"]
    delimiters = [form.delimiter] if form.delimiter else usual
    quotings = [form.quoting] if form.quoting else get_args(Quoting)
    delimiter, quoting = form_of(lines[:_LOOKED_AT], delimiters, quotings)
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
            twice = [name for name in header if header.count(name) > 1 and name]
            if twice:
                raise DataError(f"{place}: column {twice[0]} stands twice in the header")
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
