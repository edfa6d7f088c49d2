"""AdamW's parameter groups, and the learning rate as a pure function of the epoch."""

import torch
from torch import nn

from trainable.sections import Optim


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


def learning_rate(optim: Optim, epoch: int, num_epochs: int) -> float:
    """lr x (1 - lr_decay x (epoch - 1) / num_epochs), epochs counted from 1; never below 0.

    The paper's 1e-5 minus 4e-7 an epoch over 20 epochs is lr=1e-5, lr_decay=0.8.
    """
    return max(0.0, optim.lr * (1 - optim.lr_decay * (epoch - 1) / num_epochs))
