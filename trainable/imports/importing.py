"""Import of a user's data into a data folder for `--data-dir`.

Everything is detected, and can be shown, before anything is written.
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
from trainable.imports.finding import DETECT, Given, TableLayout, find
from trainable.imports.sources import FORM, Form, Source, read_sources
from trainable.imports.splitting import CUT, Cut, Row, with_cut


@dataclass(frozen=True)
class Import:
    """A planned import: what was detected. Nothing is written yet."""

    name: str
    place: str
    layout: TableLayout
    sources: tuple[Source, ...]
    splits: dict[Split, list[Row]]
    cut: tuple[Split, ...]
    seed: int
    left_out: dict[str, list[str]]  # reason -> locations of the rows

    @cached_property
    def task(self) -> Task:
        """The declaration of the task."""
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
        """What was detected: rows of (item, finding, command-line options that correct it)."""
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
        for reason, places in self.left_out.items():
            shown = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            rows.append(("left out", f"{len(places)} row(s) {reason}: {shown}", ""))
        sizes = ", ".join(f"{split} {len(part)}" for split, part in self.splits.items())
        by_hash = f"; {' and '.join(self.cut)} cut by a hash of the sentence, seed {self.seed}"
        options = "--dev-share --test-share --seed" if self.cut else ""
        rows.append(("rows", sizes + (by_hash if self.cut else ""), options))
        return [(item, printable(finding), options) for item, finding, options in rows]

    def write(self, folder: Path) -> None:
        """Write the task's files, and add the task to the folder's `tasks.yaml`.

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
        """The labels with their number of rows, or the range of scores."""
        labels = [label for rows in self.splits.values() for _, _, label in rows]
        if self.layout.kind.output is Output.SCORE:
            scores = [float(label) for label in labels if label]
            found = f"{min(scores):g} to {max(scores):g}, taken for scores in "
            found += f"{self.layout.min_score:g} to {self.layout.max_score:g}"
            return found + (", with decimal commas" if self.layout.has_decimal_commas else "")
        if self.layout.kind is Kind.MULTILABEL:
            separator = self.layout.label_separator
            labels = [part.strip() for cell in labels for part in cell.split(separator)]
        counts = Counter(labels)
        shown = [f"{name} {counts[name]}" for name in self.layout.labels[:NUM_SHOWN]]
        more = len(self.layout.labels) - NUM_SHOWN
        text = ", ".join(shown) + (f", {more} more" if more > 0 else "")
        is_match = self.layout.kind is Kind.PARAPHRASE
        return f"{text}; {self.layout.labels[1]} means a paraphrase" if is_match else text


def plan_import(
    place: str,
    name: str | None = None,
    given: Given = DETECT,
    form: Form = FORM,
    cut: Cut = CUT,
) -> Import:
    """Plan the import of `place`: a file, a folder or a data set of the hub.

    Args:
        name: of the task; None: derived from `place`.
        given: what the user specifies instead of detection.
        form: how delimited files are written.
        cut: how missing splits are cut from the training rows.

    Raises:
        ConfigError, DataError: as `read_sources` and `find`; or a label is not valid; or no row has
            sentences and a label.
    """
    sources = read_sources(place, form)
    train = next(source for source in sources if source.split == "train")
    layout = find(train.columns, train.rows, given)
    if form.header is None and given.label is None:
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
    planned = Import(name, place, layout, tuple(sources), splits, made, cut.seed, dict(left_out))
    _check(planned)
    return planned


def check_place(folder: Path, name: str) -> dict[str, Task]:
    """The tasks that earlier imports have written to `folder`.

    Raises:
        ConfigError: the folder has files that are not from imports, or a task with that name.
    """
    known = {n: Task(**declared) for n, declared in data_tasks(folder).items()}
    if not known:
        check_folder(folder)
    if name in known:
        raise ConfigError(
            f"{folder}: has a task {name} already", fix="set another --task or another --output"
        )
    return known


def tasks_file(tasks: dict[str, Task]) -> str:
    """The content of a data folder's `tasks.yaml`."""
    lines = [
        "# The tasks of the files in this folder, as detected by `ensweep data import`. Commands",
        "# with this folder as --data-dir train them, unless their recipe declares other tasks.",
        "tasks:",
    ]
    for name, task in tasks.items():
        lines += [f"  {name}:", *(f"    {line}" for line in declaration(task))]
    return "\n".join(lines) + "\n"


def declaration(task: Task) -> list[str]:
    """A task's declaration in YAML, one line per key; values are JSON, which is valid YAML."""
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
    """A task name derived from the file or data set: data/Reviews-train.csv -> reviews."""
    path = Path(place)
    stem = path.name if path.is_dir() or not path.suffix else path.stem
    letters = unicodedata.normalize("NFKD", stem.casefold())  # separates letters and accents
    letters = "".join(each for each in letters if not unicodedata.combining(each))
    plain = re.sub(r"[^a-z0-9]+", "_", letters).strip("_")
    plain = re.sub(r"_?(train|training|all|data)$", "", plain)
    return plain if plain and plain[0].isalpha() else "mine"


def _rows(
    source: Source, layout: TableLayout, before: int, left_out: dict[str, list[str]]
) -> list[Row]:
    """The rows that have all sentences and a label; test rows need no label if none has one.

    Adds the locations of the other rows to `left_out`.

    Args:
        before: number of rows of the sources before this one, for IDs by number.
    """
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
                f"{place}: {'no id' if not id_ else f'id {printable(id_)} occurs twice'}",
                fix="--id none numbers the rows",
            )
        else:
            ids.add(id_)
            rows.append((id_, sentences, label))
    return rows


def _check(planned: Import) -> None:
    """Check that all labels are valid for the task.

    Raises:
        DataError: one is not.
    """
    if planned.layout.label is None:
        return
    for split, rows in planned.splits.items():
        for id_, _, label in rows:
            if not label and planned.layout.kind is not Kind.MULTILABEL:
                continue
            _, problem = label_value(planned.task, label)
            if problem:
                place = place_of(planned.sources, planned.layout, split, id_)
                raise DataError(
                    f"{place}: the label {printable(label)[:40]!r} is {problem}",
                    fix=fix_of(planned.layout, label),
                )
