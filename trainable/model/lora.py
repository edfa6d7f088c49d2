"""LoRA: pretrained weights are frozen, low-rank updates are trained (Hu et al., 2021).

W x + alpha / rank * B A x, with A [rank, in] initially random and B [out, rank] zero. A trial keeps
the merged weights W + alpha / rank * B A, so that prediction needs no LoRA.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from trainable.config.sections import Lora

_MARK = "lora_"
"""Prefix of the names of LoRA's matrices."""


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank update; its own weights keep their names and values."""

    def __init__(self, plain: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(
            plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta"
        )
        self.weight, self.bias, self.scale = plain.weight, plain.bias, alpha / rank
        self.lora_a = nn.Parameter(plain.weight.new_empty(rank, plain.in_features))
        self.lora_b = nn.Parameter(plain.weight.new_zeros(plain.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        update = linear(linear(input, self.lora_a), self.lora_b)
        return super().forward(input) + self.scale * update

    def merged(self) -> Tensor:
        """The weight [out, in] of the equivalent plain layer."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def add_lora(encoder: nn.Module, lora: Lora) -> None:
    """Replace every linear layer of the encoder by a `LoRALinear`; A is drawn from torch's global
    generator."""
    if lora.rank is None:
        return
    plain = [name for name, module in encoder.named_modules() if type(module) is nn.Linear]
    for name in plain:
        layer = encoder.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        encoder.set_submodule(name, LoRALinear(layer, lora.rank, lora.alpha))
    set_trainable(encoder, True)


def set_trainable(encoder: nn.Module, is_trainable: bool) -> None:
    """Set whether the encoder is trained; of an encoder with LoRA, only LoRA's matrices are."""
    has_lora = any(_MARK in name for name, _ in encoder.named_parameters())
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(is_trainable and (not has_lora or _MARK in name))


def num_plain_parameters(module: nn.Module) -> int:
    """Number of the module's parameters with LoRA merged."""
    parameters = module.named_parameters()
    return sum(parameter.numel() for name, parameter in parameters if _MARK not in name)


@torch.no_grad()
def plain_weights(model: nn.Module) -> dict[str, Any]:
    """The model's `state_dict` with LoRA merged, as of a model without LoRA."""
    weights = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            weights[f"{name}.weight"] = module.merged()
            del weights[f"{name}.lora_a"], weights[f"{name}.lora_b"]
    return weights


@torch.no_grad()
def load_plain_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load `plain_weights` (matrices [out, in] and others, by name) and reset LoRA's updates to
    zero."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(_MARK in name for name in missing)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_b.zero_()
