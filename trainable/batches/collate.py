"""The batch of one step: the sentences of the task's sides, a second view, hard negatives; labels.

Legend: B examples, S sentences of all sides, N sentences of a task, C classes, H hidden size.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainable.batches.packing import Packed
from trainable.batches.sampler import Step
from trainable.batches.tokenization import Encoded
from trainable.config.loss_sections import Loss
from trainable.runtime.seeding import generator
from trainable.runtime.transfer import upload


@dataclass(frozen=True)
class Batch:
    """The inputs and targets of one step."""

    task_name: str
    sentences: NDArray[np.int64]  # [S], indices into the task's tokenised sentences
    sizes: tuple[int, ...]  # sentences per side: B for all sides but hard negatives
    labels: Tensor | None  # [B], or [B, C] for sets of labels; None for entailment
    soft_labels: Tensor | None  # [B, C] or [B], a teacher's outputs
    view_of: Tensor | None  # [B], the side (0 or 1) that the second view repeats
    num_negatives: int  # hard negatives, on the last side; 0: no such side
    packed: Packed | None = None  # the sentences' tokens; None where `embeddings` are known
    embeddings: Tensor | None = None  # [S, H], by a frozen encoder

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device, without waiting for a GPU."""
        moved: dict[str, Any] = {
            name: upload(tensor, device)
            for name in ("labels", "soft_labels", "view_of", "embeddings")
            if (tensor := getattr(self, name)) is not None
        }
        return replace(self, packed=self.packed and self.packed.to(device), **moved)


def collate(
    step: Step,
    encoded: Encoded,
    soft_labels: Tensor | None,
    loss: Loss,
    seed: tuple[int, ...],
    embeddings: Tensor | None = None,
) -> Batch:
    """Gather the batch of a step.

    Args:
        seed: (seed, epoch, step), of the choice which sentence of a pair gets a second view.
        embeddings: [N, H] of all the task's sentences, by a frozen encoder; None: the batch has
            tokens for the encoder.
    """
    own = encoded.sentences(step.rows)
    pieces, sizes = [own], [len(step.rows)] * encoded.num_sides
    view_of = None
    if loss.simcse.enabled and step.task_name in loss.simcse.tasks:
        draw = generator(seed[0], "views", *seed[1:]).integers(encoded.num_sides, size=sizes[0])
        pieces.append(own.reshape(encoded.num_sides, -1)[draw, np.arange(sizes[0])])
        sizes.append(sizes[0])
        view_of = torch.from_numpy(draw)
    negatives = encoded.negatives(step.rows)
    if len(negatives):
        pieces.append(negatives)
        sizes.append(len(negatives))
    sentences = np.concatenate(pieces)
    return Batch(
        task_name=step.task_name,
        sentences=sentences,
        sizes=tuple(sizes),
        labels=None if encoded.labels is None else encoded.labels[step.rows],
        soft_labels=None if soft_labels is None else soft_labels[step.rows],
        view_of=view_of,
        num_negatives=len(negatives),
        packed=encoded.tokens.pack(sentences) if embeddings is None else None,
        embeddings=None if embeddings is None else embeddings[torch.from_numpy(sentences)],
    )
