"""Task heads: sentence embeddings in, outputs and task embeddings out. No losses inside.

A head predicts from a task's own sides, the first one or two; further sides (a second dropout view,
hard negatives), which may be of other lengths, are only embedded.

Legend: B examples, H hidden size of the encoder, d `model.fcn_size`, C classes, Z width of a task
embedding. e: pooled sentence embeddings [B, H] a side; s: shared representation [B, d] a side.
Layout and dropout places follow section 4.3 and figure 1 of the paper.
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
"""Width of the bare baseline's siamese projections (section 4.1)."""


class HeadOutput(NamedTuple):
    """What a head makes of a batch."""

    outputs: Tensor  # logits [B, C], or one logit or score [B]
    embeddings: tuple[Tensor, ...]  # task embeddings z [B, Z], a side each
    distilled: Tensor | None = None  # outputs of the distillation head, while it is trained
    rng_state: Tensor | None = None  # from before the pass, in training: its dropout masks again


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
    """[Linear(Dropout(e)); s]: a task's own projection beside the shared representation."""

    def __init__(self, hidden_size: int, width: int, model: Model) -> None:
        super().__init__()
        self.dropout = nn.Dropout(model.head_dropout)
        self.fcn = nn.Linear(hidden_size, width)
        self.width = width + (model.fcn_size if model.shared_fcn else 0)

    def forward(self, e: Tensor, s: Tensor | None) -> Tensor:
        return _beside(self.fcn(self.dropout(e)), s)


class LinearHead(nn.Module):
    """Head of single sentences. Baseline: Linear(H, C). Else Linear(., C) over the branch, through
    a ReLU if non-linear. A score is put in the middle of its range, in units of the range."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_nonlinear = model.nonlinear_heads
        self.branch, width = _plain_branch(hidden_size, model)
        self.scale = _Scale(task)
        self.out = nn.Linear(width, task.num_outputs)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(self.branch(*side) for side in zip(e, s, strict=True))
        return HeadOutput(self.scale(self.out(relu(z[0]) if self.is_nonlinear else z[0])), z)

    def features(self, e: tuple[Tensor, ...]) -> Tensor:
        """What a linear `out` sees of a task's own sides, without dropout: [B, H]."""
        return e[0]


class PairHead(nn.Module):
    """Head of pairs whose order matters: Linear(., C) over [z_1; z_2; |z_1 - z_2|; z_1 * z_2]
    (Conneau et al. 2017), z as `LinearHead` has it."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_nonlinear = model.nonlinear_heads
        self.branch, width = _plain_branch(hidden_size, model)
        self.scale = _Scale(task)
        self.out = nn.Linear(4 * width, task.num_outputs)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(self.branch(*side) for side in zip(e, s, strict=True))
        u, v = (relu(z[0]), relu(z[1])) if self.is_nonlinear else z[:2]
        return HeadOutput(self.scale(self.out(torch.cat([u, v, (u - v).abs(), u * v], dim=-1))), z)


class SiameseParaphraseHead(nn.Module):
    """Baseline: the dot product of both sides' projections is the logit."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_nonlinear = model.nonlinear_heads
        self.branch = Branch(hidden_size, _projection_width(model), model)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        z = tuple(self.branch(*side) for side in zip(e, s, strict=True))
        left, right = (relu(z[0]), relu(z[1])) if self.is_nonlinear else z[:2]
        return HeadOutput((left * right).sum(-1), z)


class StructuredParaphraseHead(nn.Module):
    """p_i = FCN1(e_i); q = FCN2([e_1; e_2; p_1 * p_2]); logit = Linear(ReLU([s_1 * s_2; q])).

    With `model.paraphrase_difference` |e_1 - e_2| stands beside the embeddings.

    The ReLU belongs to the structure: without it the row "baseline + paraphrase structure" of the
    paper's figure 3 would be all but linear again.
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
        z = tuple(_beside(*side) for side in zip(p, s, strict=True))
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
    """Outputs = Linear([u*v, |u-v|, cos(u, v)]) of the sentence embeddings u, v [B, H]; of pairs
    whose order matters u and v stand beside them."""

    def __init__(self, task: Task, hidden_size: int, model: Model) -> None:
        super().__init__()
        self.is_ordered = KINDS[task.kind].head == "pair"
        self.dropout = nn.Dropout(model.head_dropout)
        self.out = nn.Linear((4 if self.is_ordered else 2) * hidden_size + 1, task.num_outputs)

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        return HeadOutput(_flat(self.out(self.dropout(self.features(e)))), e)

    def features(self, e: tuple[Tensor, ...]) -> Tensor:
        """What `out` sees of a task's own sides, without dropout: [B, 2 H + 1] or [B, 4 H + 1]."""
        features = pair_features(*e[:2])
        return (
            torch.cat([features, *map(to_float32, e[:2])], dim=-1) if self.is_ordered else features
        )


class ConstantHead(nn.Module):
    """The same outputs for every example: the bias alone."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, e: tuple[Tensor, ...], s: tuple[Tensor | None, ...]) -> HeadOutput:
        return HeadOutput(_flat(self.bias.expand(len(e[0]), -1).clone()), e)


class Heads(nn.ModuleDict):
    """Task -> its head. A task may have any name, also one that a module has a use for (`type`)."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a module as torch does, but do not refuse a name that an attribute has."""
        assert module is not None
        self._modules[name] = module


def pair_features(u: Tensor, v: Tensor) -> Tensor:
    """[u*v, |u-v|, cos(u, v)]: [B, 2 H + 1] of two sides' embeddings [B, H]."""
    u, v = to_float32(u), to_float32(v)
    return torch.cat([u * v, (u - v).abs(), cosine_similarity(u, v, dim=-1)[:, None]], dim=-1)


def build_head(task: Task, hidden_size: int, model: Model) -> nn.Module:
    """The head that a task's kind, `model.heads` and the architecture's switches ask for."""
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
    """Outputs [B, 1] -> scores [B], 0 being the middle of the task's range and 1 its width; logits
    [B, C] as they are."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.is_score = task.kind.output is Output.SCORE
        self.middle = (task.min_score + task.max_score) / 2
        self.width = task.max_score - task.min_score

    def forward(self, outputs: Tensor) -> Tensor:
        if not self.is_score:
            return _flat(outputs)
        return self.middle + self.width * to_float32(outputs.squeeze(-1))


def _plain_branch(hidden_size: int, model: Model) -> tuple[nn.Module, int]:
    """The sentence embedding itself in the bare baseline, else a `Branch`; and its width."""
    if not (model.shared_fcn or model.nonlinear_heads):
        return _DropoutOnly(model), hidden_size
    branch = Branch(hidden_size, model.fcn_size, model)
    return branch, branch.width


def _flat(outputs: Tensor) -> Tensor:
    """[B, C] as they are, [B, 1] as [B]."""
    return outputs if outputs.shape[-1] > 1 else outputs.squeeze(-1)


def _beside(own: Tensor, s: Tensor | None) -> Tensor:
    return own if s is None else torch.cat([own, s], dim=-1)


def _similarity_width(model: Model) -> int:
    """Width of the head's own part of z."""
    if model.similarity_size is None:
        return _projection_width(model)
    return model.similarity_size - (model.fcn_size if model.shared_fcn else 0)


def _projection_width(model: Model) -> int:
    return model.fcn_size if model.shared_fcn else BASELINE_PROJECTION
