"""Detection of the columns, task kind and labels of a table; each can be given instead.

Detection uses the names of the columns first (`sentence1`, `label`, ...), then their values. Users
see the result, and can correct it, before anything is written.
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import NUM_SHOWN, did_you_mean, printable
from trainable.config.tasks import MAX_LABELS, Kind, MetricName
from trainable.data.labels import number_of
from trainable.data.tables import cell_text
from trainable.imports.columns import Column

_IDS = ("id", "key", "uid", "uuid", "idx", "index", "guid", "pairid")
_TEXTS = (
    *("sentence", "text", "review", "content", "body", "comment", "message", "tweet", "utterance"),
    *("document", "question", "description", "summary", "title", "headline", "post", "query"),
)
_PAIRS = (("premise", "hypothesis"), ("anchor", "positive"), ("question", "answer"))
_LABELS = (
    *("label", "labels", "target", "class", "category", "sentiment", "rating", "stars", "score"),
    *("similarity", "is_duplicate", "gold_label", "output", "emotion", "emotions", "mood", "topic"),
    *("intent", "tag", "tags", "genre", "genres", "polarity", "y"),
)
_YES = (
    *("1", "yes", "true", "same", "duplicate", "paraphrase", "match", "equivalent", "similar"),
    *("ja", "oui"),
)
_SEPARATORS = ("|", ";", ",")
MAX_CLASSES = 1000
_MANY = 20
"""Maximum number of distinct whole numbers that are classes; more are scores."""
_SCALES = (1.0, 5.0, 10.0, 100.0)
"""Usual maxima of scores."""


@dataclass(frozen=True)
class Given:
    """The parts of a layout that the user gives; None: detected."""

    kind: str | None = None
    sentences: tuple[str, ...] = ()
    label: str | None = None
    id: str | None = None
    labels: tuple[str, ...] = ()
    label_separator: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    metric: MetricName | None = None


DETECT = Given()


@dataclass(frozen=True)
class TableLayout:
    """The columns, kind and labels of a task."""

    kind: Kind
    sentences: tuple[str, ...]
    label: str | None  # None: entailment
    id: str | None  # None: rows are numbered
    labels: tuple[str, ...] = ()  # names, in the order of the classes
    label_separator: str = "|"
    min_score: float = 0.0
    max_score: float = 5.0
    has_decimal_commas: bool = False  # scores like 3,5
    metric: MetricName | None = None

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(name for name in (self.id, *self.sentences, self.label) if name)

    def label_of(self, row: dict[str, Any]) -> str:
        """A row's label as text; "": none."""
        text = cell_text(row.get(self.label), self.label_separator).strip() if self.label else ""
        return text.replace(",", ".") if self.has_decimal_commas else text


def find(columns: Sequence[str], rows: Sequence[dict[str, Any]], given: Given) -> TableLayout:
    """Detect the layout of the training rows.

    Raises:
        ConfigError: a given column does not exist, or a column cannot be detected.
    """
    for name in (*given.sentences, *filter(None, (given.label, given.id))):
        if name not in columns and name != "none":
            shown = printable(", ".join(columns))
            raise ConfigError(
                f"no column {name!r}{did_you_mean(name, columns)}; there are: {shown}"
            )
    facts = {name: Column(name, [row.get(name) for row in rows]) for name in columns}
    sentences = given.sentences or _sentences(facts, given)
    rest = {name: fact for name, fact in facts.items() if name not in sentences}
    id_ = _id(rest, given)
    rest.pop(id_ or "", None)
    label = given.label or _label(rest, pairs=len(sentences) == 2)
    label = None if label == "none" else label
    label_column = facts[label] if label else None
    separator = given.label_separator or (_separator(label_column) if label_column else None)
    kind = Kind(given.kind) if given.kind else _kind(label_column, len(sentences), separator)
    if len(sentences) != 1 + kind.is_pair:
        fix = "--sentence FIRST --sentence SECOND" if kind.is_pair else "name one --sentence"
        raise ConfigError(f"a {kind} task has {1 + kind.is_pair} sentence column(s)", fix=fix)
    if kind is Kind.ENTAILMENT:
        return TableLayout(kind, sentences, None, id_)
    if label_column is None:
        shown = printable(", ".join(columns))
        raise ConfigError(f"no column of labels among {shown}", fix="name it: --label COLUMN")
    separator = separator or "|"
    if kind.may_name_labels:
        if given.kind is None and not given.labels:
            _check_repeated(label_column)
        labels = given.labels or _labels(label_column, kind, separator)
        return TableLayout(kind, sentences, label, id_, labels, separator, metric=given.metric)
    min_score, max_score = _range(label_column, given)
    scores = (min_score, max_score, label_column.has_decimal_commas)
    return TableLayout(kind, sentences, label, id_, (), separator, *scores, metric=given.metric)


def _sentences(facts: dict[str, Column], given: Given) -> tuple[str, ...]:
    """One column of text, or two whose names are those of a pair."""
    taken = {given.label, given.id}
    texts = {n: fact for n, fact in facts.items() if n not in taken and fact.is_text}
    pairs = [(one, other) for one in texts for other in texts if _are_pair(one, other)]
    for one, other in pairs:
        if min(texts[one].words, texts[other].words) >= 2 or len(texts) == 2:
            return one, other
    prose = [
        name for name, fact in texts.items() if fact.words >= 2 and not fact.is_called(_LABELS)
    ]
    called = [name for name in texts if texts[name].is_called(_TEXTS)]
    likely = [name for name in prose if name in called] or prose or called
    if not likely:
        shown = printable(", ".join(facts))
        raise ConfigError(f"no column of sentences among {shown}", fix="name it: --sentence")
    return (max(likely, key=lambda name: texts[name].words),)


def _are_pair(one: str, other: str) -> bool:
    """Whether two names form a pair: question1 and question2, premise and hypothesis, ..."""
    a, b = one.lower(), other.lower()
    if any(a.endswith(first) and b.endswith(second) for first, second in _PAIRS):
        return True
    return a[:-1] == b[:-1] and a[-1:] + b[-1:] in ("12", "ab", "01")


def _id(rest: dict[str, Column], given: Given) -> str | None:
    if given.id is not None:
        return None if given.id == "none" else given.id
    return next((n for n, fact in rest.items() if fact.is_called(_IDS) and fact.is_unique), None)


def _label(rest: dict[str, Column], pairs: bool) -> str | None:
    """The column of labels, by its name, else the only column with few distinct values."""
    for name in _LABELS:
        for column, fact in rest.items():
            if fact.is_called([name]) and fact.cells:
                return column
    few = [
        n for n, fact in rest.items() if 2 <= len(fact.counts) <= min(_MANY, len(fact.cells) / 2)
    ]
    if len(few) > 1:
        raise ConfigError(
            f"several columns may have the labels: {printable(', '.join(few))}",
            fix=f"name one: {_options(few)}",
        )
    if not few and not pairs:
        constant = {n: f"always {c.cells[0][:40]}" for n, c in rest.items() if len(c.counts) == 1}
        constant |= {n: "empty" for n, column in rest.items() if not column.cells}
        names = (f"{n} ({constant[n]})" if n in constant else n for n in rest)
        shown = printable(", ".join(names)) or "none is left"
        possible = _options([name for name in rest if name not in constant])
        fix = f"name it: {possible}" if possible else "add a column with labels"
        raise ConfigError(f"no column of labels among the others: {shown}", fix=fix)
    return few[0] if few else None


def _options(names: Sequence[str]) -> str:
    return printable(" or ".join(f"--label {shlex.quote(name)}" for name in names))


def _check_repeated(label: Column) -> None:
    """Raise ConfigError for a column of classes most of which occur once, such as titles."""
    if len(label.counts) > max(_MANY, len(label.cells) / 2):
        raise ConfigError(
            f"column {printable(label.name)} has {len(label.counts)} distinct labels in "
            f"{len(label.cells)} rows: too few rows of each",
            fix="name another column: --label; or, if they are classes: --kind classification",
        )


def _separator(label: Column) -> str | None:
    """The separator of the labels in a cell; None: cells have single labels."""
    if label.is_list:
        return "|"
    for separator in _SEPARATORS:
        cells = [[part.strip() for part in cell.split(separator)] for cell in label.cells]
        several = sum(len(parts) > 1 for parts in cells)
        names = {part for parts in cells for part in parts}
        is_reused = len(names) <= min(MAX_LABELS, len(cells) / 2) and "" not in names
        if several >= max(2, len(cells) / 20) and is_reused:
            return separator
    return None


def _kind(label: Column | None, num_sides: int, separator: str | None) -> Kind:
    if label is None:
        return Kind.ENTAILMENT
    if separator is not None and num_sides == 1:
        return Kind.MULTILABEL
    numbers = label.numbers
    if numbers is not None and not label.is_list:
        is_whole = all(number.is_integer() for number in numbers)
        if not is_whole or len(label.counts) > _MANY:
            return Kind.REGRESSION if num_sides == 1 else Kind.SIMILARITY
    if num_sides == 1:
        return Kind.CLASSIFICATION
    is_yes_or_no = len(label.counts) == 2 and _yes(label.counts) is not None
    return Kind.PARAPHRASE if is_yes_or_no else Kind.PAIR_CLASSIFICATION


def _yes(names: Iterable[str]) -> str | None:
    """The label of matching pairs; None: not clear."""
    plain = {name: name.lower().removesuffix(".0") for name in names}
    matches = [name for name in plain if plain[name] in _YES]
    is_clear = len(matches) == 1 and ("1" not in plain.values() or "0" in plain.values())
    return matches[0] if is_clear else None


def _labels(label: Column, kind: Kind, separator: str) -> tuple[str, ...]:
    """The names of the classes, sorted: numbers by value, other names alphabetically."""
    if kind is Kind.MULTILABEL:
        split = "\0" if label.is_list else separator
        cells = (part.strip() for cell in label.cells for part in cell.split(split))
        names = Counter(cells)
    else:
        names = label.counts
    limit = MAX_LABELS if kind is Kind.MULTILABEL else MAX_CLASSES
    if not 2 <= len(names) <= limit:
        raise ConfigError(
            f"column {label.name} has {len(names)} distinct label(s), a {kind} task has 2 to "
            f"{limit}",
            fix="name the column or the kind: --label, --kind",
        )
    if kind is Kind.PARAPHRASE and (yes := _yes(names)) is not None:
        return tuple(sorted(names, key=lambda name: name == yes))
    numbers = {name: number_of(name) for name in names}
    if all(math.isfinite(number) for number in numbers.values()):
        return tuple(sorted(names, key=lambda name: numbers[name]))
    return tuple(sorted(names))


def _range(label: Column, given: Given) -> tuple[float, float]:
    """The range of scores: as given, else the smallest usual scale that contains them."""
    numbers = label.numbers
    if numbers is None:
        bad = [cell for cell in label.counts if not math.isfinite(number_of(cell))]
        shown = printable(", ".join(bad[:NUM_SHOWN]))
        raise ConfigError(f"column {label.name} has labels that are not numbers: {shown}")
    minimum = min(0.0, math.floor(min(numbers))) if given.min_score is None else given.min_score
    if given.max_score is not None:
        return minimum, given.max_score
    largest = max(numbers)
    return minimum, next((s for s in _SCALES if largest <= s), float(math.ceil(largest)))
