"""A step that is larger than the memory: its sentences go through the encoder a few at a time.

Heads and losses see the whole batch, so the effective batch and the in-batch negatives stay what
they are. Of each part only the embeddings are kept; where its gradient is asked for, the part goes
through the encoder once more, by the same dropout masks (gradient caching, Gao et al., 2021).
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainable.batches.packing import Packed
from trainable.model.multitask import MultitaskBert


class MicroBatches:
    """How many sentences of a step the encoder is given at once; fewer once memory ran out.

    Args:
        size: sentences; None: all of the step's.
        notes: is told where it is halved.
    """

    def __init__(self, size: int | None, notes: list[str]) -> None:
        self.size, self.notes = size, notes

    def embed(self, model: MultitaskBert, packed: Packed, noise: Tensor | None) -> Tensor:
        """`MultitaskBert.embed`, part by part if need be."""
        if self.size is None or self.size >= len(packed.lengths):
            return model.embed(packed, noise)

        def part(input_ids: Tensor, few: Packed) -> Tensor:
            return model.embed(few, noise)

        pieces = [  # the tensor tells which device's generator has to be put back
            checkpoint(part, few.input_ids, few, use_reentrant=False)
            for few in packed.split(self.size)
        ]
        return torch.cat(pieces)[packed.places]

    def halve(self, num_sentences: int, where: str) -> bool:
        """Half of what did not fit, for a step of so many sentences; False: it was one already."""
        tried = min(self.size or num_sentences, num_sentences)
        if tried == 1:
            return False
        self.size = tried // 2
        self.notes.append(
            f"out of memory in {where}: the encoder is given {self.size} sentences at a time, "
            "batches and negatives stay whole"
        )
        return True
