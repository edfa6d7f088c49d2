"""Task heads: sentence embeddings -> outputs and task embeddings, without losses.

A head predicts from a task's own sides, the first one or two. Further sides (a second dropout view,
hard negatives), which may have other numbers of sentences, only get task embeddings.

Legend: B examples, H hidden size of the encoder, d `model.fcn_size`, C classes, Z width of a task
embedding. e: pooled sentence embeddings [B, H] per side; s: shared representation [B, d] per side.
Layers and dropout follow section 4.3 and figure 1 of the paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, relu

from trainable.config.sections import Model
from trainable.config.tasks import KINDS, Output, Task
from trainable.runtime.precision import to_float32

BASELINE_PROJECTION = 32
"""Width of the baseline's siamese projections (section 4.1)."""


class HeadOutput(NamedTuple):
    """A head's outputs for a batch."""

    outputs: Tensor  # logits [B, C], or one logit or score [B]
    embeddings: tuple[Tensor, ...]  # task embeddings z [B, Z], one per side
    distilled: Tensor | None = None  # outputs of the distillation head, in training
    rng_state: Tensor | None = None  # in training: before the pass, to repeat its dropout masks


class SharedFCN(nn.Module):
    """s = Linear(d, d)(Dropout(ReLU(Linear(H, d)(Dropout(e))))): [.., H] -> [.., d]."""

    def __init__(self, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.dropout = nn.Dropout(model.head_dropout)
        self.layer1 = nn.Linear(hidden_size, model.fcn_size)
        self.layer2 = nn.Linear(model.fcn_size, model.fcn_size)

    def forward(self, e: Tensor) -> Tensor:
        s: Tensor = self.layer2(self.dropout(relu(self.layer1(self.dropout(e)))))
        return s


class Branch(nn.Module):
    """[Linear(Dropout(e)); s]: a task's projection, concatenated with the shared representation."""

    def __init__(self, hidden_size: int, width: int, model: Model) -> None:
        super().__init__()
        self.dropout = nn.Dropout(model.head_dropout)
        self.fcn = nn.Linear(hidden_size, width)
        self.width = width + (model.fcn_size if model.shared_fcn else 0)

    def forward(self, e: Tensor, s: Tensor | None) -> Tensor:
        return _with_shared(self.fcn(self.dropout(e)), s)


class LinearHead(nn.Module):
    """Head for single sentences. Baseline: Linear(H, C). Else Linear(., C) over the branch, with a
    ReLU between them if `model.nonlinear_heads`. Scores are scaled by `_Scale`."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_nonlinear = model.nonlinear_heads
        self.branch, width = _build_branch(hidden_size, model)
        self.scale = _Scale(task)
        self.out = nn.Linear(width, task.num_outputs)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(self.branch(*side) for side in zip(e, s, strict=True))
        return HeadOutput(self.scale(self.out(relu(z[0]) if self.is_nonlinear else z[0])), z)

    def features(self, e: tuple[Tensor, ...]) -> Tensor:
        """The input of `out` without dropout, for linear heads: [B, H]."""
        return e[0]


class PairHead(nn.Module):
    """Head for ordered pairs: Linear(., C) over [z_1; z_2; |z_1 - z_2|; z_1 * z_2] (Conneau et al.
    2017), with z as in `LinearHead`."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_nonlinear = model.nonlinear_heads
        self.branch, width = _build_branch(hidden_size, model)
        self.scale = _Scale(task)
        self.out = nn.Linear(4 * width, task.num_outputs)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(self.branch(*side) for side in zip(e, s, strict=True))
        u, v = (relu(z[0]), relu(z[1])) if self.is_nonlinear else z[:2]
        return HeadOutput(self.scale(self.out(torch.cat([u, v, (u - v).abs(), u * v], dim=-1))), z)


class SiameseParaphraseHead(nn.Module):
    """Baseline: the logit is the dot product of the two sides' projections, never rectified: the
    product of non-negative vectors has no negative logit, so every pair would be a paraphrase."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.branch = Branch(hidden_size, _projection_width(model), model)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(self.branch(*side) for side in zip(e, s, strict=True))
        return HeadOutput((z[0] * z[1]).sum(-1), z)


class StructuredParaphraseHead(nn.Module):
    """p_i = FCN1(e_i); q = FCN2([e_1; e_2; p_1 * p_2]); logit = Linear(ReLU([s_1 * s_2; q])).

    With `model.paraphrase_difference`, FCN2 also has the input |e_1 - e_2|. The ReLU is always
    there: without it, the row "baseline + paraphrase structure" of the paper's figure 3 would be
    almost linear.
    """

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        d, self.has_difference = model.fcn_size, model.paraphrase_difference
        self.dropout = nn.Dropout(model.head_dropout)
        self.fcn1 = nn.Linear(hidden_size, d)
        self.fcn2 = nn.Linear((2 + self.has_difference) * hidden_size + d, d)
        self.out = nn.Linear(2 * d if model.shared_fcn else d, 1)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        dropped = [self.dropout(side) for side in e]
        p = [self.fcn1(side) for side in dropped]
        difference = [(dropped[0] - dropped[1]).abs()] if self.has_difference else []
        features = torch.cat([*dropped[:2], *difference, p[0] * p[1]], dim=-1)
        q = self.fcn2(self.dropout(features))
        if s[0] is not None and s[1] is not None:
            q = torch.cat([s[0] * s[1], q], dim=-1)
        z = tuple(_with_shared(*side) for side in zip(p, s, strict=True))
        return HeadOutput(self.out(relu(q)).squeeze(-1), z)


class SimilarityHead(nn.Module):
    """z_i = [Linear(e_i); s_i], no activation; score = max_score x cos(z_1, z_2)."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.max_score = task.max_score
        self.branch = Branch(hidden_size, _similarity_width(model), model)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(to_float32(self.branch(*side)) for side in zip(e, s, strict=True))
        return HeadOutput(self.max_score * cosine_similarity(z[0], z[1], dim=-1), z)


class LinearPairHead(nn.Module):
    """Outputs = Linear([u*v, |u-v|, cos(u, v)]) of the sentence embeddings u, v [B, H]; for ordered
    pairs, u and v are inputs as well."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_ordered = KINDS[task.kind].head == "pair"
        self.dropout = nn.Dropout(model.head_dropout)
        self.out = nn.Linear((4 if self.is_ordered else 2) * hidden_size + 1, task.num_outputs)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        return HeadOutput(_flat(self.out(self.dropout(self.features(e)))), e)

    def features(self, e: tuple[Tensor, ...]) -> Tensor:
        """The input of `out` without dropout: [B, 2 H + 1], or [B, 4 H + 1] for ordered pairs."""
        features = pair_features(*e[:2])
        if not self.is_ordered:
            return features
        return torch.cat([features, *map(to_float32, e[:2])], dim=-1)


class ConstantHead(nn.Module):
    """The same outputs for every example: the bias alone."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        return HeadOutput(_flat(self.bias.expand(len(e[0]), -1).clone()), e)


class Heads(nn.ModuleDict):
    """Task -> its head. A task may be named like an attribute of `nn.Module` (`type`)."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a module without torch's check that no attribute has its name."""
        assert module is not None
        self._modules[name] = module


def pair_features(u: Tensor, v: Tensor) -> Tensor:
    """[u*v, |u-v|, cos(u, v)], [B, 2 H + 1], for the embeddings [B, H] of two sides."""
    u, v = to_float32(u), to_float32(v)
    return torch.cat([u * v, (u - v).abs(), cosine_similarity(u, v, dim=-1)[:, None]], dim=-1)


def build_head(task: Task, hidden_size: int, model: Model) -> nn.Module:
    """The head for a task's kind and the settings of the model."""
    if model.heads == "constant":
        return ConstantHead(task.num_outputs)
    head = KINDS[task.kind].head
    if head == "linear":
        return LinearHead(task, hidden_size, model)
    if model.heads == "linear":
        return LinearPairHead(task, hidden_size, model)
    if head == "match" and model.paraphrase_structure:
        return StructuredParaphraseHead(task, hidden_size, model)
    return _PAIR_HEADS[head](task, hidden_size, model)


_PAIR_HEADS: dict[str, Callable[[Task, int, Model], nn.Module]] = {
    "pair": PairHead,
    "match": SiameseParaphraseHead,
    "cosine": SimilarityHead,
}


class _DropoutOnly(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.dropout = nn.Dropout(model.head_dropout)

    def forward(self, e: Tensor, s: Tensor | None) -> Tensor:
        assert s is None
        dropped: Tensor = self.dropout(e)
        return dropped


class _Scale(nn.Module):
    """Scores [B] from outputs [B, 1]: middle of the task's range + its width x output. Logits
    [B, C] are unchanged."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.is_score = task.kind.output is Output.SCORE
        self.middle = (task.min_score + task.max_score) / 2
        self.width = task.max_score - task.min_score

    def forward(self, outputs: Tensor) -> Tensor:
        if not self.is_score:
            return _flat(outputs)
        return self.middle + self.width * to_float32(outputs.squeeze(-1))


def _build_branch(hidden_size: int, model: Model) -> tuple[nn.Module, int]:
    """The branch below a linear layer and its width; in the baseline it is only dropout."""
    if not (model.shared_fcn or model.nonlinear_heads):
        return _DropoutOnly(model), hidden_size
    branch = Branch(hidden_size, model.fcn_size, model)
    return branch, branch.width


def _flat(outputs: Tensor) -> Tensor:
    """Outputs [B, 1] as [B]; [B, C] unchanged."""
    return outputs if outputs.shape[-1] > 1 else outputs.squeeze(-1)


def _with_shared(own: Tensor, s: Tensor | None) -> Tensor:
    return own if s is None else torch.cat([own, s], dim=-1)


def _similarity_width(model: Model) -> int:
    """Width of the projection in z, without the shared representation."""
    if model.similarity_size is None:
        return _projection_width(model)
    return model.similarity_size - (model.fcn_size if model.shared_fcn else 0)


def _projection_width(model: Model) -> int:
    return model.fcn_size if model.shared_fcn else BASELINE_PROJECTION
