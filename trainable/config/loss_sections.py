"""The sections of a trial's configuration for losses and distillation."""

from typing import Annotated, Literal

from pydantic import Field

from trainable.config.sections import Fraction, NonNegative, Positive, Section


class MNR(Section):
    """Multiple negatives ranking: the other pairs of a batch are negatives (section 4.4)."""

    enabled: bool = False
    """Multiple negatives ranking (section 4.4): on entailment tasks and on `loss.mnr.tasks`."""
    tasks: tuple[str, ...] = ("similarity",)
    """Pair tasks that it is added to: with scores, pairs are weighted by their score; with labels
    0 and 1, only positive pairs count. Default for your own tasks: those of kind similarity."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Similarity S(x, y) of two task embeddings."""
    scale: Positive = 20.0
    """S is multiplied by this."""
    weight: NonNegative = 1.0
    """Factor of the added loss (the author's code: 10). Entailment tasks have no other loss."""
    hard_negatives: bool = False
    """Add the third sentence of an entailment row, where it has one, to the negatives."""


class SimCSE(Section):
    """Unsupervised SimCSE: two dropout views of a sentence are a positive pair (section 4.4)."""

    enabled: bool = False
    """Unsupervised SimCSE (section 4.4): two dropout views of the same sentences."""
    tasks: tuple[str, ...] = ("similarity",)
    """Tasks that it is added to, of any kind with labels. Default for your own tasks: those of kind
    similarity."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Similarity of the two views' task embeddings; the paper uses the dot product."""
    temperature: Positive = 0.05
    """The cosine is divided by this; no effect with `dot`."""
    weight: NonNegative = 1.0
    """Factor of the added loss (the author's code: 10)."""


class Smart(Section):
    """SMART: penalise how much outputs change under adversarial noise (section 4.4)."""

    enabled: bool = False
    """Smoothness-inducing adversarial regularisation (section 4.4)."""
    tasks: tuple[str, ...] | None = None
    """Tasks that it is added to; None: every task with labels."""
    place: Literal["input", "pooled"] = "input"
    """Where noise is added: to the output of the embedding layer, or to the sentence embedding."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm that bounds the noise and the ascent steps, per sentence."""
    radius: Positive = 1e-3
    """Largest norm of the noise (the paper gives none)."""
    num_steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Number of gradient ascent steps; each costs a forward and a backward pass."""
    step_size: Positive = 1e-3
    """Norm of an ascent step."""
    init_std: Positive = 1e-5
    """Standard deviation of the initial noise."""
    weight: NonNegative = 1.0
    """Factor of the added penalty."""


class Loss(Section):
    """Weights of the tasks' losses, and the losses that are added to them."""

    paraphrase_weight: NonNegative = 1.0
    """Factor of the loss of paraphrase tasks (loss rescaling, section 4.2: 0.1)."""
    mnr: MNR = MNR()
    simcse: SimCSE = SimCSE()
    smart: Smart = Smart()


class Distill(Section):
    """Distillation: learn from a teacher's outputs as well as from the labels (section 4.6)."""

    enabled: bool = False
    """Learn from a teacher's soft labels as well as from the labels (section 4.6)."""
    teacher: str = "self"
    """`self`: a model of this configuration without distillation, trained first; `run:ID` or
    `run:ID,ID`: the mean of tracked runs; `bundle:DIR`: an exported ensemble."""
    num_teachers: Annotated[int, Field(ge=1, le=100)] = 1
    """Number of teachers with `self`, whose outputs are averaged; their seeds count up from this
    trial's."""
    weight: Fraction = 0.4
    """Weight w of the soft-label loss: (1 - w) x task loss + w x soft loss. The paper's 2/3 of the
    task loss is a ratio of 0.4 to 0.6."""
    place: Literal["mix", "head"] = "mix"
    """mix: the soft-label loss is mixed into the main head's loss; head: an additional head on the
    shared layers learns the soft labels, and its loss is added with the weight (the paper's further
    work)."""
