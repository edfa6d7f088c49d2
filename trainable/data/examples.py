"""Validated examples of a task: IDs, sentences, labels.

Legend: n examples, C labels of a set.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainable.config.tasks import Output, Split, Task
from trainable.data.labels import label_sets


@dataclass(frozen=True)
class Examples:
    """The n examples of one task and split."""

    task_name: str
    task: Task
    split: Split
    ids: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]  # a tuple of n sentences for each of 1 or 2 sides
    labels: NDArray[np.float64] | None  # [n] (for sets see `label_sets`); None: unlabelled
    contradictions: tuple[str, ...] | None = None  # [n] for entailment: the third sentence, or ""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """A hash, 16 hex characters, of names, IDs, sentences and labels, in order."""
        digest = hashlib.sha256(f"{self.task_name}\0{self.split}".encode())
        for column in (self.ids, *self.sentences, self.contradictions or ()):
            digest.update(json.dumps(column).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<f8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def targets(self) -> NDArray[np.float32] | None:
        """The targets of a loss: labels [n], or for sets 0 or 1 per label [n, C]."""
        if self.labels is None or self.task.kind.output is not Output.LABELS:
            return None if self.labels is None else self.labels.astype(np.float32)
        return label_sets(self.labels, self.task.num_classes).astype(np.float32)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Examples":
        """The examples `rows` [k], in that order."""

        def pick(column: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(column[row] for row in rows)

        return replace(
            self,
            ids=pick(self.ids),
            sentences=tuple(map(pick, self.sentences)),
            labels=None if self.labels is None else self.labels[np.asarray(rows, dtype=np.int64)],
            contradictions=self.contradictions and pick(self.contradictions),
        )
