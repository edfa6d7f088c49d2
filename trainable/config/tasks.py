"""Tasks. The paper's are declared in `paper_tasks.yaml`, as users declare their own.

A kind determines the number of sentences per example, the type of label and the model's output; a
task is a kind with files, columns, a number of classes and a metric.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainable.config.strict_yaml import read_settings

Split = Literal["train", "dev", "test"]
MetricName = Literal["accuracy", "macro_f1", "micro_f1", "pearson", "spearman"]
Quoting = Literal["standard", "none"]


class Output(StrEnum):
    """A head's output for one example; determines the loss, the metrics and how ensembles combine
    members."""

    CLASSES = "classes"  # C logits: one of C classes
    BINARY = "binary"  # one logit: 1 against 0
    LABELS = "labels"  # C logits: a set of labels, each independent of the others
    SCORE = "score"  # one number
    NONE = "none"  # not evaluated

    @property
    def has_columns(self) -> bool:
        """Whether outputs of N examples have shape [N, C]; else [N]."""
        return self in (Output.CLASSES, Output.LABELS)

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """The metrics for such outputs, the default first."""
        return _METRICS[self]


class KindFacts(NamedTuple):
    """The properties of a kind."""

    num_sides: int  # sentences per example
    output: Output
    head: Literal["linear", "pair", "match", "cosine"]


class Kind(StrEnum):
    """The type of a task's examples and labels; determines its head, loss and output."""

    CLASSIFICATION = "classification"  # one sentence -> one of C classes
    REGRESSION = "regression"  # one sentence -> score in min_score..max_score
    MULTILABEL = "multilabel"  # one sentence -> a set of C labels
    PAIR_CLASSIFICATION = "pair_classification"  # two sentences, in order -> one of C classes
    PARAPHRASE = "paraphrase"  # two sentences -> 0 or 1
    SIMILARITY = "similarity"  # two sentences -> score in 0..max_score
    ENTAILMENT = "entailment"  # anchor, entailed (, contradicting); no label, no metric

    @property
    def is_pair(self) -> bool:
        return KINDS[self].num_sides == 2

    @property
    def output(self) -> Output:
        return KINDS[self].output

    @property
    def has_integer_labels(self) -> bool:
        """Whether a label is one class, by name or number."""
        return self.output in (Output.CLASSES, Output.BINARY)

    @property
    def may_name_labels(self) -> bool:
        return self.has_integer_labels or self.output is Output.LABELS


KINDS: dict[Kind, KindFacts] = {
    Kind.CLASSIFICATION: KindFacts(1, Output.CLASSES, "linear"),
    Kind.REGRESSION: KindFacts(1, Output.SCORE, "linear"),
    Kind.MULTILABEL: KindFacts(1, Output.LABELS, "linear"),
    Kind.PAIR_CLASSIFICATION: KindFacts(2, Output.CLASSES, "pair"),
    Kind.PARAPHRASE: KindFacts(2, Output.BINARY, "match"),
    Kind.SIMILARITY: KindFacts(2, Output.SCORE, "cosine"),
    Kind.ENTAILMENT: KindFacts(2, Output.NONE, "cosine"),
}
"""The properties of every kind. A new kind with an existing output and head needs only an entry
here: losses, metrics, files and predictions depend on the output alone."""

_METRICS: dict[Output, tuple[MetricName, ...]] = {
    Output.CLASSES: ("accuracy", "macro_f1"),
    Output.BINARY: ("accuracy", "macro_f1"),
    Output.LABELS: ("micro_f1", "macro_f1", "accuracy"),
    Output.SCORE: ("pearson", "spearman"),
    Output.NONE: (),
}
MAX_LABELS = 50
"""The limit for a multi-label task: a set of labels is stored as one number with bit c for label c
(exact in float64 up to 53 bits)."""


class Columns(BaseModel):
    """Column names in the task's files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = "id"
    """Column of the row's ID, which identifies its prediction."""
    sentences: tuple[str, ...] = ()
    """One name for single sentences, two for pairs. Default: sentence, or sentence1, sentence2."""
    label: str = "label"
    """Column of the label."""


class Task(BaseModel):
    """A task of one kind. Declared in YAML under `tasks.<name>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    """Type of the examples and labels; determines head, loss and output."""
    files: dict[Split, str]
    """File of each split, in the data folder: `.jsonl`, `.parquet` or delimited text."""
    columns: Columns = Columns()
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n\x00]$')] = "\t"
    """Separator of columns in a delimited file. The paper's files are tab-separated."""
    quoting: Quoting = "standard"
    """standard: cells may be quoted, with quotation marks in them doubled; none: quotation marks
    are ordinary characters, for files that were written without quoting."""
    num_classes: Annotated[int, Field(ge=2, le=1000)] = 2
    """Labels are 0..num_classes-1, or names (`labels`). Paraphrase tasks have 2."""
    labels: tuple[str, ...] = ()
    """Names of the labels in the files, in the order of the classes; () if the files have numbers.
    For a paraphrase task, the second is the label of matching pairs."""
    label_separator: Annotated[str, Field(min_length=1, max_length=3)] = "|"
    """Separator of the labels in a cell of a multi-label task; an empty cell is the empty set."""
    min_score: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Minimum of regression labels, which are in min_score..max_score."""
    max_score: Annotated[float, Field(allow_inf_nan=False)] = 5.0
    """Maximum of labels; similarity labels are in 0..max_score, and the head returns max_score x
    cosine."""
    metric: MetricName | None = None
    """Metric that is reported and maximised. Default: accuracy for classes, micro_f1 for sets of
    labels, pearson for scores."""
    head: str | None = None
    """Name of the task whose head this one shares, if that task is trained as well."""
    submission_header: str | None = None
    """Header of the label column in a submission file; None: `Predicted_<label column>`."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_kind(cls, values: object) -> object:
        if not isinstance(values, dict) or "kind" not in values:
            return values
        try:
            kind = Kind(values["kind"])
        except ValueError:
            return values  # pydantic reports it with the valid kinds
        values = dict(values)
        values.setdefault("metric", next(iter(kind.output.metrics), None))
        labels = values.get("labels")
        if isinstance(labels, list | tuple) and labels:
            values["labels"] = [str(name) if type(name) is int else name for name in labels]
            values.setdefault("num_classes", len(labels))
        columns = values.get("columns", {})
        if isinstance(columns, dict) and "sentences" not in columns:
            names = ("sentence1", "sentence2") if kind.is_pair else ("sentence",)
            values["columns"] = {**columns, "sentences": names}
        return values

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Task":
        expected = 2 if self.kind.is_pair else 1
        if len(self.columns.sentences) != expected:
            raise ValueError(
                f"a {self.kind} task has {expected} sentence column(s), "
                f"got {list(self.columns.sentences)}"
            )
        metrics = self.kind.output.metrics
        if self.metric not in (metrics or (None,)):
            raise ValueError(
                f"metric of a {self.kind} task must be one of {list(metrics)}, got {self.metric!r}"
            )
        if self.kind is Kind.PARAPHRASE and self.num_classes != 2:
            raise ValueError(f"a paraphrase task has 2 classes, got {self.num_classes}")
        if self.min_score and self.kind is not Kind.REGRESSION:
            raise ValueError(f"the scores of a {self.kind} task begin at 0: leave min_score out")
        if self.min_score >= self.max_score:
            raise ValueError(f"max_score is {self.max_score:g}, not above {self.min_score:g}")
        if problem := self._label_problem():
            raise ValueError(problem)
        if "train" not in self.files:
            raise ValueError("files must name a train file")
        if self.kind is not Kind.ENTAILMENT and "dev" not in self.files:
            raise ValueError("files must name a dev file")
        return self

    def _label_problem(self) -> str | None:
        if self.kind is Kind.MULTILABEL and self.num_classes > MAX_LABELS:
            return f"a multilabel task has at most {MAX_LABELS} labels, got {self.num_classes}"
        if not self.labels:
            return None
        if not self.kind.may_name_labels:
            return f"a {self.kind} task has no labels to name"
        if len(self.labels) != self.num_classes:
            return f"{len(self.labels)} labels are named, num_classes is {self.num_classes}"
        if len(set(self.labels)) < len(self.labels):
            return f"a label is named twice in {list(self.labels)}"
        bad = [name for name in self.labels if not name or name != name.strip() or "\n" in name]
        if self.kind is Kind.MULTILABEL:
            bad += [name for name in self.labels if self.label_separator in name]
        return f"{bad[0]!r} is not a valid label name: a cell could not hold it" if bad else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes or labels; their numbers as text where they have no names."""
        return self.labels or tuple(map(str, range(self.num_classes)))

    def show(self, label: float) -> str | int | float:
        """A label as it is written in predictions: a name or class number, the joined names of a
        set, or a score."""
        if self.kind.output is Output.LABELS:
            return self.label_separator.join(
                name for c, name in enumerate(self.label_names) if int(label) >> c & 1
            )
        if self.kind.output is Output.SCORE:
            return float(label)
        return self.labels[int(label)] if self.labels else int(label)

    @property
    def is_evaluated(self) -> bool:
        """Whether the task has a dev score; entailment is only trained."""
        return self.metric is not None

    @property
    def num_outputs(self) -> int:
        """Number of the model's outputs per example: C logits, or 1 for a logit or score."""
        return self.num_classes if self.kind.output.has_columns else 1

    def fits_head_of(self, owner: "Task") -> bool:
        """Whether this task can share `owner`'s head: same kind, number of outputs and scale, or
        entailment with the head of a similarity task."""
        if self.kind is Kind.ENTAILMENT:
            return owner.kind in (Kind.SIMILARITY, Kind.ENTAILMENT)
        ours, theirs = (
            (task.kind, task.num_outputs, task.min_score, task.max_score) for task in (self, owner)
        )
        return ours == theirs


PAPER_TASKS = {
    name: Task(**declared)
    for name, declared in read_settings(Path(__file__).with_name("paper_tasks.yaml")).items()
}
"""SST-5, Quora question pairs, STS and AllNLI as the paper uses them (section 4.1, 4.2)."""
