"""Checks of imported files: the header, the columns of all splits, labels; and their messages."""

import math
import shlex
from collections import defaultdict
from collections.abc import Sequence

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import printable
from trainable.config.tasks import Split
from trainable.data.labels import number_of
from trainable.data.tables import cell_text
from trainable.imports.finding import TableLayout
from trainable.imports.sources import Source


def check_header(train: Source, layout: TableLayout) -> None:
    """Check that the first line is a header.

    Raises:
        ConfigError: it is probably a row, because the name of the label's column is a label.
    """
    name = layout.label
    if name is None or (name not in layout.labels and math.isnan(number_of(name))):
        return
    texts = ["text"] if len(layout.sentences) == 1 else ["text1", "text2"]
    usual = {name: "label", **dict(zip(layout.sentences, texts, strict=True))}
    columns = [usual.get(each, f"column{n}") for n, each in enumerate(train.columns, 1)]
    raise ConfigError(
        f"{train.name}: the first line looks like a row, not like a header: "
        f"{printable(name)} is a label",
        fix=f"name the columns: --columns {','.join(columns)}; or, if it is a header: --label "
        f"{shlex.quote(name)}",
    )


def check_columns(source: Source, train: Source, layout: TableLayout) -> None:
    """Check that another split has the columns of train; a test split may have no labels.

    Raises:
        ConfigError: a column is missing.
    """
    needed = [
        *layout.sentences,
        *([layout.label] if layout.label and source.split != "test" else []),
    ]
    for name in needed:
        if name not in source.columns:
            raise ConfigError(
                f"{source.name}: no column {name!r}, which {train.name} has; there are: "
                f"{printable(', '.join(source.columns))}",
                fix="use the same column names in all splits",
            )


def alike(labels: Sequence[str]) -> str:
    """`Good and good`: labels that differ only in case or spaces, and are probably the same."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_name[" ".join(label.casefold().split())].append(label)
    return "; ".join(" and ".join(same) for same in by_name.values() if len(same) > 1)


def place_of(sources: Sequence[Source], layout: TableLayout, split: Split, id_: str) -> str:
    """The location `dev.csv:5` of the row with an ID; numbered IDs count through all sources."""
    before = 0
    for source in sources:
        for number, (row, place) in enumerate(zip(source.rows, source.places, strict=True), 1):
            own = cell_text(row.get(layout.id), "") if layout.id else str(before + number)
            if own.strip() == id_ and source.split in (split, "train"):
                return place
        before += len(source.rows)
    return f"{split} row {printable(id_)}"


def fix_of(layout: TableLayout, label: str) -> str:
    """How to fix a label that is not one of the task's."""
    correct = "correct the row"
    names = [*layout.labels, label]
    if layout.labels and not any(set(name) & set(",'\"") for name in names):
        return f"{correct}, or if it is a label too: --labels {shlex.quote(','.join(names))}"
    return f"{correct}, or name the labels or the kind: --labels, --kind"
