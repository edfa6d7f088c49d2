"""The tasks. The paper's are declared in `paper_tasks.yaml`, as users declare their own.

A kind says how many sentences an example has, what its label is and what the model puts out; a
task is a kind with files, columns, a number of classes and a metric.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainable.config.strict_yaml import read_settings

Split = Literal["train", "dev", "test"]
MetricName = Literal["accuracy", "macro_f1", "pearson", "spearman"]
Quoting = Literal["standard", "none"]


class Kind(StrEnum):
    """What an example and its label are, hence which head, loss and output a task has."""

    CLASSIFICATION = "classification"  # one sentence -> class 0..C-1; C logits
    PARAPHRASE = "paraphrase"  # two sentences -> 0 or 1; one logit
    SIMILARITY = "similarity"  # two sentences -> score in 0..max_score; one score
    ENTAILMENT = "entailment"  # anchor, entailed (, contradicting); no label, no metric

    @property
    def is_pair(self) -> bool:
        return self is not Kind.CLASSIFICATION

    @property
    def has_integer_labels(self) -> bool:
        return self in (Kind.CLASSIFICATION, Kind.PARAPHRASE)


_METRICS: dict[Kind, tuple[MetricName, ...]] = {
    Kind.CLASSIFICATION: ("accuracy", "macro_f1"),
    Kind.PARAPHRASE: ("accuracy", "macro_f1"),
    Kind.SIMILARITY: ("pearson", "spearman"),
    Kind.ENTAILMENT: (),
}


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
    """Labels are 0..num_classes-1. Paraphrase tasks have 2."""
    max_score: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """Similarity labels lie in 0..max_score; the head puts out max_score x cosine."""
    metric: MetricName | None = None
    """Reported per task and maximised. Default: accuracy for classes, pearson for scores."""
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
        values.setdefault("metric", next(iter(_METRICS[kind]), None))
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
        if self.metric not in (_METRICS[self.kind] or (None,)):
            raise ValueError(
                f"metric of a {self.kind} task must be one of {list(_METRICS[self.kind])}, "
                f"got {self.metric!r}"
            )
        if self.kind is Kind.PARAPHRASE and self.num_classes != 2:
            raise ValueError(f"a paraphrase task has 2 classes, got {self.num_classes}")
        if "train" not in self.files:
            raise ValueError("files must name a train file")
        if self.kind is not Kind.ENTAILMENT and "dev" not in self.files:
            raise ValueError("files must name a dev file")
        return self

    @property
    def is_evaluated(self) -> bool:
        """Whether the task has a dev score; entailment is train-only."""
        return self.metric is not None

    @property
    def num_outputs(self) -> int:
        """Columns of the model's output: C logits, or one logit or score."""
        return self.num_classes if self.kind is Kind.CLASSIFICATION else 1

    def fits_head_of(self, owner: "Task") -> bool:
        """Whether `owner`'s head can serve this task too: as many sides, outputs and the scale."""
        if self.kind is Kind.ENTAILMENT:
            return owner.kind in (Kind.SIMILARITY, Kind.ENTAILMENT)
        ours, theirs = ((task.kind, task.num_outputs, task.max_score) for task in (self, owner))
        return ours == theirs


PAPER_TASKS = {
    name: Task(**declared)
    for name, declared in read_settings(Path(__file__).with_name("paper_tasks.yaml")).items()
}
"""SST-5, Quora question pairs, STS and AllNLI as the paper uses them (section 4.1, 4.2)."""
