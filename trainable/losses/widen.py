"""Losses are computed in float32 at least."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half precisions become float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
