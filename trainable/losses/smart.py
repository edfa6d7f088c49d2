"""Smoothness-inducing adversarial regularisation (section 4.4): outputs barely move with noise.

The noise that moves the answers most is sought by projected gradient ascent within a small ball
around a sentence's representation; how far it moves them is the penalty. The clean and the
perturbed pass share their dropout masks, or the masks would move the answers more than the noise.

Legend: S sentences, L tokens, H hidden size, B examples, C classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from trainable.config.loss_sections import Smart
from trainable.config.tasks import Kind, Output
from trainable.runtime.precision import to_float32

Norm = Literal["linf", "l2"]


def smart_penalty(
    kind: Kind,
    perturbed: Callable[[Tensor], Tensor],
    clean: Tensor,
    start: Tensor,
    settings: Smart,
) -> Tensor:
    """Distance of the answers under the worst noise found from the clean ones: a scalar.

    Args:
        perturbed: noise -> outputs, by the same dropout masks as `clean`.
        clean: outputs [B, C] or [B] without noise, with their graph.
        start: noise to start from, [S, L, H] or [S, H].
    """
    noise = worst_noise(kind, perturbed, clean.detach(), start, settings)
    return divergence(kind, perturbed(noise), clean)


def worst_noise(
    kind: Kind,
    perturbed: Callable[[Tensor], Tensor],
    clean: Tensor,
    start: Tensor,
    settings: Smart,
) -> Tensor:
    """Noise within the ball after `num_steps` steps of steepest ascent in its norm; of the shape of
    `start`, [S, L, H] or [S, H], `clean` [B, C] or [B] being the answers without."""
    noise = project(start, settings.norm, settings.radius)
    for _ in range(settings.num_steps):
        noise = noise.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(kind, perturbed(noise), clean), noise)
        step = settings.step_size * _steepest(gradient, settings.norm)
        noise = project(noise.detach() + step, settings.norm, settings.radius)
    return noise.detach()


def divergence(kind: Kind, one: Tensor, other: Tensor) -> Tensor:
    """Mean over the batch of the symmetrised KL of the classes, or of the squared difference: a
    scalar, at least 0, of outputs [B, C] or [B].

    KL(p||q) + KL(q||p) = sum_c (p_c - q_c)(log p_c - log q_c), in which the logits may stand for
    the log-probabilities: what normalises them cancels. A logit stands for two classes.
    """
    one, other = to_float32(one), to_float32(other)
    if kind.output is Output.CLASSES:
        return ((one.softmax(-1) - other.softmax(-1)) * (one - other)).sum(-1).mean()
    if kind.output in (Output.BINARY, Output.LABELS):
        return ((one.sigmoid() - other.sigmoid()) * (one - other)).mean()
    return (one - other).square().mean()


def project(noise: Tensor, norm: Norm, radius: float) -> Tensor:
    """The nearest noise [S, L, H] or [S, H] whose norm, sentence by sentence, is at most
    `radius`."""
    if norm == "linf":
        return noise.clamp(-radius, radius)
    length = _length(noise)
    return noise * (radius / length.clamp_min(radius))


def _steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of length 1 in the norm in which the divergence grows fastest."""
    if norm == "linf":
        return gradient.sign()
    return gradient / _length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def _length(noise: Tensor) -> Tensor:
    """L2 norm of each sentence's noise, with as many dimensions as the noise."""
    length: Tensor = torch.linalg.vector_norm(noise, dim=tuple(range(1, noise.ndim)), keepdim=True)
    return length
