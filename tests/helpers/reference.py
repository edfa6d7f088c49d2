"""Reference implementations of the paper's heads, losses, schedule and optimizer, for tests.

Plain PyTorch in float64, term by term as in sections 4.1 to 4.6 of the paper, with loops where the
project multiplies matrices. They share no code with the project, only the names of its layers, by
which a head's weights are given.

Legend: B examples, H hidden size of the encoder, d FCN size, C classes, Z width of a task
embedding, K pairs. e: sentence embeddings [B, H] a side; s: shared representation [B, d] a side.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]  # a module's weights, by the names of its layers
Drop = Callable[[Tensor], Tensor]  # dropout at one place
Sides = Sequence[Tensor]


def keep(x: Tensor) -> Tensor:
    """No dropout."""
    return x


def every_third_dropped(p: float) -> Drop:
    """Dropout with a known mask: columns 0, 3, 6, ... are dropped, the others scaled up."""

    def drop(x: Tensor) -> Tensor:
        is_kept = torch.arange(x.shape[-1]) % 3 != 0
        return x * is_kept.to(x.dtype) / (1 - p)

    return drop


def drop_known_masks(x: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
    """A replacement of `torch.nn.functional.dropout` with the mask of `every_third_dropped`."""
    return every_third_dropped(p)(x) if training and p > 0 else x


def linear(weights: Weights, layer: str, x: Tensor) -> Tensor:
    """W x + b."""
    return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]


def rectified(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.where(x > 0, x, torch.zeros_like(x))


def shared(weights: Weights, e: Tensor, drop: Drop = keep) -> Tensor:
    """s = FCN2(ReLU(FCN1(e))): "two fully-connected linear layers (with relu activation in
    between)" (section 4.3), dropout before each."""
    return linear(weights, "layer2", drop(rectified(linear(weights, "layer1", drop(e)))))


def with_shared(own: Tensor, s: Tensor | None) -> Tensor:
    """[own; s]: the shared layers' output is concatenated with a task's own."""
    return own if s is None else torch.cat([own, s], dim=-1)


def classes(
    weights: Weights, e: Tensor, s: Tensor | None, *, nonlinear: bool, drop: Drop = keep
) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and z: a linear layer on e (section 4.1), or one on [FCN(e); s], rectified."""
    if s is None and not nonlinear:
        return linear(weights, "out", drop(e)), drop(e)
    z = with_shared(linear(weights, "branch.fcn", drop(e)), s)
    return linear(weights, "out", rectified(z) if nonlinear else z), z


def siamese_logit(
    weights: Weights, e: Sides, s: Sequence[Tensor | None], *, drop: Drop = keep
) -> tuple[Tensor, list[Tensor]]:
    """The baseline's paraphrase logit [B]: the dot product of both sides' embeddings."""
    z = [with_shared(linear(weights, "branch.fcn", drop(x)), y) for x, y in zip(e, s, strict=True)]
    logits = []
    for x, y in zip(z[0], z[1], strict=True):
        logits.append(sum(x[k] * y[k] for k in range(len(x))))
    return torch.stack(logits), z


def structured_logit(
    weights: Weights, e: Sides, s: Sequence[Tensor | None], *, drop: Drop = keep
) -> tuple[Tensor, list[Tensor]]:
    """p_i = FCN1(e_i); q = FCN2([e_1; e_2; p_1 * p_2]); logit = Linear(ReLU([s_1 * s_2; q]))."""
    e = [drop(side) for side in e]
    p = [linear(weights, "fcn1", side) for side in e]
    product = torch.einsum("bd,bd->bd", p[0], p[1])
    q = linear(weights, "fcn2", drop(torch.cat([e[0], e[1], product], dim=-1)))
    if s[0] is not None and s[1] is not None:
        q = torch.cat([torch.einsum("bd,bd->bd", s[0], s[1]), q], dim=-1)
    z = [with_shared(own, side) for own, side in zip(p, s, strict=True)]
    return linear(weights, "out", rectified(q))[:, 0], z


def similarity_score(
    weights: Weights, e: Sides, s: Sequence[Tensor | None], max_score: float, *, drop: Drop = keep
) -> tuple[Tensor, list[Tensor]]:
    """max_score * cos(z_1, z_2), z_i = [FCN(e_i); s_i] (sections 4.1 and 4.3)."""
    z = [with_shared(linear(weights, "branch.fcn", drop(x)), y) for x, y in zip(e, s, strict=True)]
    scores = [max_score * cosine(x, y) for x, y in zip(z[0], z[1], strict=True)]
    return torch.stack(scores), z


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """x.y / (|x| |y|) of two vectors."""
    return (x * y).sum() / ((x * x).sum().sqrt() * (y * y).sum().sqrt())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-mean_b log p_b(label), p = softmax(logits [B, C])."""
    terms = [
        row.exp().sum().log() - row[int(label)] for row, label in zip(logits, labels, strict=True)
    ]
    return torch.stack(terms).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-mean_b (l log p + (1 - l) log(1 - p)), p = 1 / (1 + exp(-logit)) [B]."""
    p = 1 / (1 + (-logits).exp())
    return -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()


def squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference of [B]."""
    return ((scores - labels) ** 2).mean()


def ranking_terms(
    x: Tensor, y: Tensor, similarity: str, scale: float, negatives: Sequence[Tensor] = ()
) -> Tensor:
    """-log exp(S(x_i, y_i)) / sum_j exp(S(x_i, y_j)), each i of K (MNR, section 4.4)."""
    terms = []
    for i, left in enumerate(x):
        scores = [
            scale * (cosine(left, right) if similarity == "cosine" else (left * right).sum())
            for right in [*y, *negatives]
        ]
        terms.append(torch.stack(scores).exp().sum().log() - scores[i])
    return torch.stack(terms)


def weighted_ranking(x: Tensor, y: Tensor, labels: Tensor, similarity: str, scale: float) -> Tensor:
    """The weighted MNR of section 4.4: each term times exp(l_i) / sum_{j=0..5} exp(j)."""
    total = sum(math.exp(j) for j in range(6))
    terms = ranking_terms(x, y, similarity, scale)
    return (labels.exp() / total * terms).sum() / len(x)


def positive_ranking(x: Tensor, y: Tensor, labels: Tensor, similarity: str, scale: float) -> Tensor:
    """MNR over the pairs with label 1."""
    chosen = [k for k, label in enumerate(labels) if label == 1]
    return ranking_terms(x[chosen], y[chosen], similarity, scale).mean()


def simcse(
    sides: Sides, view: Tensor, view_of: Tensor, similarity: str, temperature: float
) -> Tensor:
    """MNR between sentences and themselves under other dropout masks; `view_of`: which side."""
    same = torch.stack([sides[int(side)][row] for row, side in enumerate(view_of)])
    scale = 1.0 if similarity == "dot" else 1 / temperature
    return ranking_terms(same, view, similarity, scale).mean()


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of logits [B, C] with the teacher's softmax as target."""
    terms = []
    for ours, theirs in zip(logits, teacher, strict=True):
        p = theirs.exp() / theirs.exp().sum()
        terms.append(-(p * (ours - ours.exp().sum().log())).sum())
    return torch.stack(terms).mean()


def distilled(hard: Tensor, soft: Tensor, weight: float) -> Tensor:
    """The soft loss is weighted 2/3 of the task's at weight 0.4 (section 4.6): 0.6 and 0.4."""
    return (1 - weight) * hard + weight * soft


def learning_rate(lr: float, decay: float, epoch: int, num_epochs: int) -> float:
    """The learning rate in an epoch, counted from 1: linear decay, by the share `decay` in all."""
    rate = lr
    for _ in range(epoch - 1):
        rate -= lr * decay / num_epochs
    return max(rate, 0.0)


def adamw(
    weight: Tensor, gradients: Sequence[Tensor], rates: Sequence[float], weight_decay: float
) -> Tensor:
    """A weight after steps of AdamW (Loshchilov and Hutter, 2019, algorithm 2), from zero
    moments."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        weight = weight - rate * weight_decay * weight - rate * step
    return weight
