"""One step's sentences and targets: the task's own sides, then a second view, then negatives.

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
    """What a step looks up, embeds and learns from."""

    task_name: str
    sentences: NDArray[np.int64]  # [S], numbers among the task's tokenised sentences
    sizes: tuple[int, ...]  # sentences of each side, B for all but hard negatives
    labels: Tensor | None  # [B], or [B, C] for sets of labels; None for entailment
    soft_labels: Tensor | None  # [B, C] or [B], a teacher's outputs
    view_of: Tensor | None  # [B]: the own side whose second view is the side after them
    num_negatives: int  # hard negatives: the last side, where there are any
    packed: Packed | None = None  # the sentences' tokens, for the encoder
    embeddings: Tensor | None = None  # [S, H] where a frozen encoder's are known; no tokens then

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; a GPU is not waited for."""
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
        seed: (seed, epoch, number of the step), of which sentence of a pair is seen twice.
        embeddings: [N, H] of all the task's tokenised sentences, where the encoder is frozen and
            they are known; None: the batch holds tokens for the encoder.
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
