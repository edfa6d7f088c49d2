"""AdamW and its parameter groups."""

import torch
from torch import nn

from trainable.config.sections import Optim


def build_optimizer(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; biases and layer norms (vectors) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": optim.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=optim.lr,
        fused=True,
    )
