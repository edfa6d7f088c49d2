"""A user's own data -> a folder with the task's files, which `--data-dir` takes.

All is found before anything is written, and said.
"""

import csv
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.modes import users_mask
from mlflow_setup.filesystem.output import check_folder, make_folder
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.text import NUM_SHOWN, is_text, printable
from trainable.config.recipe import TASKS_FILE, data_tasks
from trainable.config.tasks import Kind, Output, Split, Task
from trainable.data.labels import label_value
from trainable.data.tables import cell_text
from trainable.imports.checks import alike, check_columns, check_header, fix_of, place_of
from trainable.imports.finding import TOLD, TableLayout, Told, find
from trainable.imports.sources import FORM, Form, Source, read_sources
from trainable.imports.splitting import CUT, Cut, Row, with_cut


@dataclass(frozen=True)
class Import:
    """What was found. Nothing is written yet."""

    name: str
    place: str
    layout: TableLayout
    sources: tuple[Source, ...]
    splits: dict[Split, list[Row]]
    cut: tuple[Split, ...]
    seed: int
    left_out: dict[str, list[str]]  # why -> places of the rows

    @cached_property
    def task(self) -> Task:
        """The task as the folder's files hold it."""
        layout = self.layout
        columns: dict[str, Any] = {"id": layout.id or "id", "sentences": layout.sentences}
        if layout.label:
            columns["label"] = layout.label
        declared: dict[str, Any] = {"kind": layout.kind, "columns": columns, "delimiter": ","}
        declared["files"] = {split: self._file(split) for split in self.splits}
        if layout.kind.may_name_labels:
            declared["labels"] = layout.labels
        if layout.kind is Kind.MULTILABEL:
            declared["label_separator"] = layout.label_separator
        if layout.kind.output is Output.SCORE:
            declared |= {"min_score": layout.min_score, "max_score": layout.max_score}
        if layout.metric:
            declared["metric"] = layout.metric
        return Task(**declared)

    def describe(self) -> list[tuple[str, str, str]]:
        """What was found, a row each: what, the finding, the options that correct it."""
        layout, task = self.layout, self.task
        rows = [("read", f"{s.name}: {len(s.rows)} rows, {s.form}", "") for s in self.sources]
        rows[0] = (*rows[0][:2], "--delimiter --quoting --columns")
        metric = f", scored by {task.metric}" if task.metric else ""
        rows.append(("task", f"{self.name}: {layout.kind}{metric}", "--task --kind --metric"))
        rows.append(("sentence", " and ".join(layout.sentences), "--sentence"))
        if layout.label:
            rows.append(("label", f"{layout.label}: {self._labels()}", "--label --labels"))
            if same := alike(layout.labels):
                rows.append(("look at", f"labels that differ in case alone: {same}", ""))
        rows.append(("id", layout.id or "none: rows are numbered", "--id"))
        unused = [c for c in self.sources[0].columns if c not in layout.used]
        if unused:
            rows.append(("not used", ", ".join(unused), ""))
        for why, places in self.left_out.items():
            shown = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            rows.append(("left out", f"{len(places)} row(s) {why}: {shown}", ""))
        sizes = ", ".join(f"{split} {len(part)}" for split, part in self.splits.items())
        by_hash = f"; {' and '.join(self.cut)} cut by a hash of the sentence, seed {self.seed}"
        options = "--dev-share --test-share --seed" if self.cut else ""
        rows.append(("rows", sizes + (by_hash if self.cut else ""), options))
        return [(what, printable(finding), options) for what, finding, options in rows]

    def write(self, folder: Path) -> None:
        """Write the task's files, and declare it in the folder's `tasks.yaml`.

        Raises:
            ConfigError: as `check_place`.
        """
        known, mask = check_place(folder, self.name), users_mask()
        make_folder(folder)
        for split, rows in self.splits.items():
            write_atomic(folder / self._file(split), self._text(rows), mask)
        write_atomic(folder / TASKS_FILE, tasks_file({**known, self.name: self.task}), mask)

    def _file(self, split: Split) -> str:
        return f"{self.name}-{split}.{'jsonl' if self.layout.kind is Kind.ENTAILMENT else 'csv'}"

    def _text(self, rows: Sequence[Row]) -> str:
        if self.layout.kind is Kind.ENTAILMENT:
            return "".join(f"{json.dumps(sentences)}\n" for _, sentences, _ in rows)
        has_labels = any(label for _, _, label in rows) or self.layout.kind is Kind.MULTILABEL
        text, columns = io.StringIO(), self.task.columns
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([columns.id, *columns.sentences, *([columns.label] if has_labels else [])])
        for id_, sentences, label in rows:
            writer.writerow([id_, *sentences, *([label] if has_labels else [])])
        return text.getvalue()

    def _labels(self) -> str:
        """The labels with their number of rows, or what scores lie between."""
        labels = [label for rows in self.splits.values() for _, _, label in rows]
        if self.layout.kind.output is Output.SCORE:
            scores = [float(label) for label in labels if label]
            said = f"{min(scores):g} to {max(scores):g}, taken for scores in "
            return f"{said}{self.layout.min_score:g} to {self.layout.max_score:g}"
        if self.layout.kind is Kind.MULTILABEL:
            separator = self.layout.label_separator
            labels = [part.strip() for cell in labels for part in cell.split(separator)]
        counts = Counter(labels)
        shown = [f"{name} {counts[name]}" for name in self.layout.labels[:NUM_SHOWN]]
        more = len(self.layout.labels) - NUM_SHOWN
        return ", ".join(shown) + (f", {more} more" if more > 0 else "")


def plan_import(
    place: str, name: str | None = None, told: Told = TOLD, form: Form = FORM, cut: Cut = CUT
) -> Import:
    """Find what is at `place`: a file, a folder or a data set of the hub.

    Args:
        name: of the task; None: after the file.

    Raises:
        ConfigError, DataError: as `read_sources` and `find`; a label that is none; no row is left.
    """
    sources = read_sources(place, form)
    train = next(source for source in sources if source.split == "train")
    layout = find(train.columns, train.rows, told)
    if form.header is None and told.label is None:
        check_header(train, layout)
    left_out: dict[str, list[str]] = defaultdict(list)
    splits: dict[Split, list[Row]] = {}
    number = 0
    for source in sources:
        assert source.split is not None
        check_columns(source, train, layout)
        splits[source.split] = _rows(source, layout, number, left_out)
        number += len(source.rows)
    if not splits["train"]:
        raise DataError(f"{place}: no row has sentences and a label")
    missing = [s for s in cut.shares if s not in splits and layout.label is not None]
    splits, made = with_cut(splits, layout, missing, cut)
    name = safe_name(name, "--task") if name else _task_name(place)
    found_here = Import(name, place, layout, tuple(sources), splits, made, cut.seed, dict(left_out))
    _check(found_here)
    return found_here


def check_place(folder: Path, name: str) -> dict[str, Task]:
    """The tasks that an import into `folder` comes beside.

    Raises:
        ConfigError: it has other files than those of imports, or a task of that name.
    """
    known = {n: Task(**declared) for n, declared in data_tasks(folder).items()}
    if not known:
        check_folder(folder)
    if name in known:
        raise ConfigError(
            f"{folder}: has a task {name} already", fix="name another --task, or another --output"
        )
    return known


def tasks_file(tasks: dict[str, Task]) -> str:
    """`tasks.yaml` of a data folder."""
    lines = [
        "# The tasks of the files beside it, as `ensweep data import` found them. Commands with",
        "# this folder as --data-dir train them, unless their recipe declares its own.",
        "tasks:",
    ]
    for name, task in tasks.items():
        lines += [f"  {name}:", *(f"    {line}" for line in declaration(task))]
    return "\n".join(lines) + "\n"


def declaration(task: Task) -> list[str]:
    """A task's declaration in YAML, a key a line; values are JSON, which is YAML too."""
    given = task.model_dump(mode="json", exclude_defaults=True)
    given = {key: given[key] for key in ("kind", "files", *given) if key in given}
    if task.labels:
        given.pop("num_classes", None)
    given["metric"] = task.metric
    return [f"{key}: {_yaml(value)}" for key, value in given.items() if value is not None]


def _yaml(value: Any) -> str:
    is_plain = isinstance(value, str) and re.fullmatch("[a-z_0-9]+", value) and value[0].isalpha()
    return value if is_plain and value != "null" else json.dumps(value, ensure_ascii=False)


def _task_name(place: str) -> str:
    """After the file or the data set: reviews of data/Reviews-train.csv."""
    path = Path(place)
    stem = path.name if path.is_dir() or not path.suffix else path.stem
    letters = unicodedata.normalize("NFKD", stem.casefold())  # an umlaut is a letter and a mark
    letters = "".join(each for each in letters if not unicodedata.combining(each))
    plain = re.sub(r"[^a-z0-9]+", "_", letters).strip("_")
    plain = re.sub(r"_?(train|training|all|data)$", "", plain)
    return plain if plain and plain[0].isalpha() else "mine"


def _rows(
    source: Source, layout: TableLayout, before: int, left_out: dict[str, list[str]]
) -> list[Row]:
    """The rows with all their sentences and a label; without one where no row of test has it."""
    labels = [layout.label_of(row) for row in source.rows]
    is_hidden = source.split == "test" and not any(labels)
    needs_label = not is_hidden and layout.label and layout.kind is not Kind.MULTILABEL
    rows: list[Row] = []
    ids: set[str] = set()
    for number, (row, label) in enumerate(zip(source.rows, labels, strict=True), before + 1):
        place = source.places[number - before - 1]
        texts = [cell_text(row.get(name), " ") for name in layout.sentences]
        sentences = tuple(" ".join(text.split()) for text in texts)
        id_ = cell_text(row.get(layout.id), "").strip() if layout.id else str(number)
        if not all(sentences) or not all(map(is_text, (*sentences, id_))):
            left_out["without a sentence"].append(place)
        elif needs_label and not label:
            left_out["without a label"].append(place)
        elif not id_ or id_ in ids:
            raise DataError(
                f"{place}: {'no id' if not id_ else f'id {printable(id_)} stands twice'}",
                fix="--id none numbers the rows",
            )
        else:
            ids.add(id_)
            rows.append((id_, sentences, label))
    return rows


def _check(planned: Import) -> None:
    """Every label is one of the task's."""
    if planned.layout.label is None:
        return
    for split, rows in planned.splits.items():
        for id_, _, label in rows:
            if not label and planned.layout.kind is not Kind.MULTILABEL:
                continue
            _, why = label_value(planned.task, label)
            if why:
                place = place_of(planned.sources, planned.layout, split, id_)
                raise DataError(
                    f"{place}: the label {printable(label)[:40]!r} is {why}",
                    fix=fix_of(planned.layout, label),
                )
