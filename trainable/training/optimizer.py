"""AdamW and its parameter groups."""

import re
from collections import defaultdict
from typing import Any

import torch

from trainable.config.sections import Optim
from trainable.model.multitask import MultitaskBert

SCALE = "lr_scale"
"""Key in a parameter group: the factor of the stage's learning rate."""


def build_optimizer(model: MultitaskBert, optim: Optim) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; no weight decay on biases and layer norms (vectors).

    If the encoder is trained, the factor of the learning rate is `layer_decay`^(L - l) for layer l
    of L (the embeddings are layer 0), and `head_lr_factor` for the parameters above the encoder.
    """
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_scale(name, model, optim), parameter.ndim >= 2].append(parameter)
    parameter_groups: list[dict[str, Any]] = [
        {"params": params, "weight_decay": optim.weight_decay if decays else 0.0, SCALE: scale}
        for (scale, decays), params in sorted(groups.items(), key=lambda item: item[0])[::-1]
    ]
    return torch.optim.AdamW(parameter_groups, lr=optim.lr, eps=optim.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group: `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SCALE]


def _scale(name: str, model: MultitaskBert, optim: Optim) -> float:
    """The factor of the learning rate for a parameter, by its name."""
    if model.is_encoder_frozen:
        return 1.0
    if not name.startswith("encoder."):
        return optim.head_lr_factor
    num_layers = int(model.encoder.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    layer = re.search(r"\blayers?\.(\d+)\.", name)
    if layer is not None:
        depth = num_layers - 1 - int(layer[1])
    else:
        depth = num_layers if "embeddings" in name else 0
    return float(optim.layer_decay**depth)
