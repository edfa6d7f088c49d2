"""Dropout that is fast on a CPU too.

torch's CPU dropout draws one number of a serial generator for each element, which costs more than
the layers between. Eight decisions are cut out of each 64-bit draw here: the probability is
p rounded to 1/256, and the scale is that of the rounded one, so that the mean stays exact.
"""

import torch
from torch import Tensor, nn

_STEPS = 256


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Drop elements with probability round(256 p) / 256 and scale the others up. CPU tensors."""
    num_dropped = min(round(p * _STEPS), _STEPS - 1)
    if num_dropped == 0:
        return x
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.uint8)[: x.numel()].view(x.shape)
    keep = (bits >= num_dropped).to(x.dtype)
    return x * keep.mul_(_STEPS / (_STEPS - num_dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout`, drawing eight decisions at a time on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return super().forward(x) if x.is_cuda else fast_dropout(x, self.p)


def use_fast_dropout(model: nn.Module) -> nn.Module:
    """Replace every `nn.Dropout` of `model` in place; returns it."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    return model
