"""Interpolation between the weights before and after fine-tuning (WiSE-FT, Wortsman et al. 2022).

Fine-tuning may improve one task at the cost of another. Interpolated weights keep most of both
gains, without more training or a second encoder.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from trainable.model.multitask import MultitaskBert

Weights = Mapping[str, Tensor]
"""Name -> value, as in a state dict."""


class Interpolation:
    """A model with the weights start + share x (trained - start).

    Args:
        start: the model before fine-tuning; it is copied.
        share: of the fine-tuned weights, above 0 and at most 1.
    """

    def __init__(self, start: MultitaskBert, share: float) -> None:
        self.share, self.model = share, deepcopy(start)
        self.start = {name: value.clone() for name, value in start.state_dict().items()}

    @torch.no_grad()
    def update(self, trained: MultitaskBert) -> None:
        """Set the weights of `model` from those of `trained`, which have the same names."""
        own = self.model.state_dict()
        for name, value in trained.state_dict().items():
            is_weight = value.is_floating_point()
            own[name].copy_(self.start[name].lerp(value, self.share) if is_weight else value)

    def load_start(self, start: Weights) -> None:
        """Restore the weights before fine-tuning."""
        for name, value in start.items():
            self.start[name].copy_(value)
