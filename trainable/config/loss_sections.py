"""The sections of a trial's configuration that say what it learns from: losses and teachers."""

from typing import Annotated, Literal

from pydantic import Field

from trainable.config.sections import Fraction, NonNegative, Positive, Section


class MNR(Section):
    """Multiple negatives ranking: the other pairs of a batch are negatives (section 4.4)."""

    enabled: bool = False
    """Multiple negatives ranking (section 4.4): on entailment tasks and on `loss.mnr.tasks`."""
    tasks: tuple[str, ...] = ("similarity",)
    """Pair tasks that it is added to: weighted by label for scores, on the positives of 0/1. With
    tasks of your own: those of kind similarity, unless named."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """S(x, y) between task embeddings."""
    scale: Positive = 20.0
    """S is multiplied by this."""
    weight: NonNegative = 1.0
    """Factor of the added loss (the author's code: 10). Entailment batches have this loss alone."""
    hard_negatives: bool = False
    """Rank an entailment row's third sentence, where it has one, among the negatives."""


class SimCSE(Section):
    """Unsupervised SimCSE: two dropout views of a sentence are a positive pair (section 4.4)."""

    enabled: bool = False
    """Unsupervised SimCSE (section 4.4): two dropout views of the same sentences."""
    tasks: tuple[str, ...] = ("similarity",)
    """Tasks that it is added to, of any kind with labels. With tasks of your own: those of kind
    similarity, unless named."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Between the two views' task embeddings; the paper uses the dot product."""
    temperature: Positive = 0.05
    """The cosine is divided by this; no effect with `dot`."""
    weight: NonNegative = 1.0
    """Factor of the added loss (the author's code: 10)."""


class Smart(Section):
    """SMART: outputs are to move little under the worst small noise (section 4.4)."""

    enabled: bool = False
    """Smoothness-inducing adversarial regularisation (section 4.4)."""
    tasks: tuple[str, ...] | None = None
    """Tasks that it is added to; None: every task with labels."""
    place: Literal["input", "pooled"] = "input"
    """Noise on the embedding layer's output, or on the sentence embedding."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball, and of an ascent step's length, for each sentence."""
    radius: Positive = 1e-3
    """Of the ball that the noise stays in (the paper gives none)."""
    num_steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Ascent steps; each costs a forward and a backward pass."""
    step_size: Positive = 1e-3
    """Length of an ascent step in the norm."""
    init_std: Positive = 1e-5
    """Standard deviation of the noise that the ascent starts from."""
    weight: NonNegative = 1.0
    """Factor of the added penalty."""


class Loss(Section):
    """The losses that are added to each task's own, and the weights of both."""

    paraphrase_weight: NonNegative = 1.0
    """Factor of the loss of paraphrase tasks (loss rescaling, section 4.2: 0.1)."""
    mnr: MNR = MNR()
    simcse: SimCSE = SimCSE()
    smart: Smart = Smart()


class Distill(Section):
    """Distillation: a teacher's outputs are learned beside the labels (section 4.6)."""

    enabled: bool = False
    """Learn a teacher's soft labels beside the labels (section 4.6)."""
    teacher: str = "self"
    """`self`: this configuration without distillation, trained before; `run:ID` or `run:ID,ID`:
    tracked runs, averaged; `bundle:DIR`: an exported ensemble."""
    num_teachers: Annotated[int, Field(ge=1, le=100)] = 1
    """With `self`: so many models, of this seed and those after it, averaged."""
    weight: Fraction = 0.4
    """Share of the soft loss in the mix (the text's 2/3 of the task loss: 0.4 to 0.6)."""
    place: Literal["mix", "head"] = "mix"
    """Mixed into the main head's loss, or a head of its own on the shared layers, whose loss is
    added with the weight (the paper's further work)."""
