"""SMART, smoothness-inducing adversarial regularisation (section 4.4).

Projected gradient ascent finds the noise, within a small ball around a sentence's representation,
that changes the outputs most; the size of that change is the penalty. The clean and the perturbed
forward pass share their dropout masks; otherwise the masks would change the outputs more than the
noise.

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
    """`divergence` between the outputs under the worst noise found and those without, a scalar.

    Args:
        perturbed: noise -> outputs, with the same dropout masks as `clean`.
        clean: outputs [B, C] or [B] without noise, attached to their graph.
        start: initial noise [S, L, H] or [S, H].
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
    """Noise [S, L, H] or [S, H] after `num_steps` steps of projected steepest ascent.

    Args:
        perturbed: noise -> outputs.
        clean: detached outputs [B, C] or [B] without noise.
        start: initial noise, of the same shape as the result.
    """
    noise = project(start, settings.norm, settings.radius)
    for _ in range(settings.num_steps):
        noise = noise.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(kind, perturbed(noise), clean), noise)
        step = settings.step_size * _steepest(gradient, settings.norm)
        noise = project(noise.detach() + step, settings.norm, settings.radius)
    return noise.detach()


def divergence(kind: Kind, one: Tensor, other: Tensor) -> Tensor:
    """Symmetrised KL divergence of two outputs [B, C] or [B], or the squared difference of scores.

    A scalar, at least 0: the mean over the batch. KL(p||q) + KL(q||p) = sum_c (p_c - q_c)(log p_c -
    log q_c), where logits can replace the log-probabilities because the normalisers cancel. A
    single logit is the log-odds of two classes.
    """
    one, other = to_float32(one), to_float32(other)
    if kind.output is Output.CLASSES:
        return ((one.softmax(-1) - other.softmax(-1)) * (one - other)).sum(-1).mean()
    if kind.output in (Output.BINARY, Output.LABELS):
        return ((one.sigmoid() - other.sigmoid()) * (one - other)).mean()
    return (one - other).square().mean()


def project(noise: Tensor, norm: Norm, radius: float) -> Tensor:
    """Noise [S, L, H] or [S, H] projected onto the ball of norm `radius`, per sentence."""
    if norm == "linf":
        return noise.clamp(-radius, radius)
    length = _length(noise)
    return noise * (radius / length.clamp_min(radius))


def _steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of steepest ascent, with length 1 in the norm, per sentence."""
    if norm == "linf":
        return gradient.sign()
    return gradient / _length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def _length(noise: Tensor) -> Tensor:
    """L2 norm of each sentence's noise, [S, 1, 1] or [S, 1]."""
    length: Tensor = torch.linalg.vector_norm(noise, dim=tuple(range(1, noise.ndim)), keepdim=True)
    return length
