"""Weights between where fine-tuning began and where it is (WiSE-FT, Wortsman et al. 2022).

What fine-tuning gives to one task it may take from another. Part of the way back keeps most of what
each has gained, and costs neither training nor a second encoder.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from trainable.model.multitask import MultitaskBert

Weights = Mapping[str, Tensor]
"""Name -> value, as a state dict has them."""


class Interpolation:
    """A model whose weights are start + share x (trained - start).

    Args:
        start: the model that fine-tuning begins with; it is copied.
        share: of the way, above 0 and at most 1.
    """

    def __init__(self, start: MultitaskBert, share: float) -> None:
        self.share, self.model = share, deepcopy(start)
        self.start = {name: value.clone() for name, value in start.state_dict().items()}

    @torch.no_grad()
    def update(self, trained: MultitaskBert) -> None:
        """Move `model` to its share of the way to `trained`, whose weights have the same names."""
        own = self.model.state_dict()
        for name, value in trained.state_dict().items():
            is_weight = value.is_floating_point()
            own[name].copy_(self.start[name].lerp(value, self.share) if is_weight else value)

    def load_start(self, start: Weights) -> None:
        """Put back where fine-tuning began."""
        for name, value in start.items():
            self.start[name].copy_(value)
