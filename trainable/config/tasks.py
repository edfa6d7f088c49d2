"""The tasks. The paper's are declared in `paper_tasks.yaml`, as users declare their own.

A kind says how many sentences an example has, what its label is and what the model puts out; a
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
    """What a head puts out for an example, hence loss, metrics, and how members are combined."""

    CLASSES = "classes"  # C logits: one of C classes
    BINARY = "binary"  # one logit, of 1 against 0
    LABELS = "labels"  # C logits: a set of labels, each by itself
    SCORE = "score"  # one number
    NONE = "none"  # nothing that is scored

    @property
    def has_columns(self) -> bool:
        """Whether outputs of N examples are [N, C]; else [N]."""
        return self in (Output.CLASSES, Output.LABELS)

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """What such outputs can be scored by, the default first."""
        return _METRICS[self]


class KindFacts(NamedTuple):
    """What distinguishes a kind."""

    num_sides: int  # sentences of an example
    output: Output
    head: Literal["linear", "pair", "match", "cosine"]


class Kind(StrEnum):
    """What an example and its label are, hence which head, loss and output a task has."""

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
        """Whether a label is a class, by name or number."""
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
"""Every kind. A new one whose output and head are known is an entry here; losses, metrics, files
and answers follow from its output."""

_METRICS: dict[Output, tuple[MetricName, ...]] = {
    Output.CLASSES: ("accuracy", "macro_f1"),
    Output.BINARY: ("accuracy", "macro_f1"),
    Output.LABELS: ("micro_f1", "macro_f1", "accuracy"),
    Output.SCORE: ("pearson", "spearman"),
    Output.NONE: (),
}
MAX_LABELS = 50
"""Of a multi-label task: a set of them is one number, whose bit c stands for label c."""


class Columns(BaseModel):
    """Column names in the task's files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = "id"
    """Of a row's name, which predictions are found by."""
    sentences: tuple[str, ...] = ()
    """One name for single sentences, two for pairs. Default: sentence, or sentence1, sentence2."""
    label: str = "label"
    """Of what is to be learned."""


class Task(BaseModel):
    """A task of one kind. Declared in YAML under `tasks.<name>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    """What an example and its label are, hence head, loss and output."""
    files: dict[Split, str]
    """File name below the data directory for each split. `.jsonl` or delimited text."""
    columns: Columns = Columns()
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n\x00]$')] = "\t"
    """Between the columns of a delimited file. The paper's files are tab-separated."""
    quoting: Quoting = "standard"
    """standard: a cell may stand in quotation marks, those inside it doubled; none: quotation marks
    are letters, for files that were written without quoting."""
    num_classes: Annotated[int, Field(ge=2, le=1000)] = 2
    """Labels are 0..num_classes-1, or names (`labels`). Paraphrase tasks have 2."""
    labels: tuple[str, ...] = ()
    """The labels' names as the files have them, in the order of the classes; () where the files
    have numbers. Of a paraphrase task the second is the one that says that the pair matches."""
    label_separator: Annotated[str, Field(min_length=1, max_length=3)] = "|"
    """Between the labels of a cell of a multi-label task; an empty cell has none of them."""
    min_score: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Regression labels lie in min_score..max_score."""
    max_score: Annotated[float, Field(allow_inf_nan=False)] = 5.0
    """Similarity labels lie in 0..max_score; the head puts out max_score x cosine."""
    metric: MetricName | None = None
    """Reported per task and maximised. Default: accuracy for classes, micro_f1 for sets of labels,
    pearson for scores."""
    head: str | None = None
    """Name of the task whose head this one shares, if that task is trained too."""
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
        if problem := self._wrong_with_labels():
            raise ValueError(problem)
        if "train" not in self.files:
            raise ValueError("files must name a train file")
        if self.kind is not Kind.ENTAILMENT and "dev" not in self.files:
            raise ValueError("files must name a dev file")
        return self

    def _wrong_with_labels(self) -> str | None:
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
        return f"{bad[0]!r} is no name of a label: a cell could not hold it" if bad else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the classes, or the labels of a set, are called: names, or their numbers."""
        return self.labels or tuple(map(str, range(self.num_classes)))

    def show(self, label: float) -> str | int | float:
        """A label as answers have it: a name, the names of a set, a class's number or a score."""
        if self.kind.output is Output.LABELS:
            return self.label_separator.join(
                name for c, name in enumerate(self.label_names) if int(label) >> c & 1
            )
        if self.kind.output is Output.SCORE:
            return float(label)
        return self.labels[int(label)] if self.labels else int(label)

    @property
    def is_evaluated(self) -> bool:
        """Whether the task has a dev score; entailment is train-only."""
        return self.metric is not None

    @property
    def num_outputs(self) -> int:
        """Columns of the model's output: C logits, or one logit or score."""
        return self.num_classes if self.kind.output.has_columns else 1

    def fits_head_of(self, owner: "Task") -> bool:
        """Whether `owner`'s head can serve this task too: as many sides, outputs and the scale."""
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
