"""The sections of a trial's configuration, a class each: name, range, default and meaning.

The defaults are the paper's baseline; where the paper gives no value, `docs/paper.md` says why.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A group of settings: frozen, strictly typed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(Section):
    """Where the examples are, which tasks are trained, and how many rows of them."""

    dir: str = ""
    """Folder with the tasks' files, or its storage URI (`s3://...`): each machine fetches it once.
    `ensweep data sample DIR` writes a generated one."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = (
        "sentiment",
        "paraphrase",
        "similarity",
    )
    """Names of the tasks to train on, of the paper's four and those declared under `tasks`."""
    on_bad_rows: Literal["error", "skip"] = "error"
    """What to do with defective rows: stop before training, or drop, count and log them."""
    max_train_examples: Annotated[int, Field(ge=1)] | None = None
    """At most this many training examples of each task, drawn with the seed."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each task's training examples, drawn with the seed."""


class Model(Section):
    """The encoder, how a sentence is embedded, and the heads above it (sections 4.1 and 4.3)."""

    encoder: str = "bert-base-uncased"
    """A BERT or a relative (RoBERTa, XLM-R, CamemBERT, MPNet, ALBERT, ELECTRA, DistilBERT,
    ModernBERT): a hub name, a folder or its storage URI, or `minilm` (the packaged MiniLM-L6)."""
    revision: str | None = None
    """Revision of a hub encoder; None: the newest, recorded with the trial."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """Sentence embedding: tanh pooler over [CLS] (the paper), [CLS] itself, or masked mean."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens a sentence is cut at; None: the encoder's limit."""
    heads: Literal["paper", "linear", "constant"] = "paper"
    """The paper's; a linear layer over the embedding, of pairs over [u*v, |u-v|, cos(u, v)]; or the
    same outputs for every row. The latter two are what the baselines of a sweep are made of."""
    shared_fcn: bool = False
    """Two fully-connected layers shared by all tasks (section 4.3, weight-sharing)."""
    nonlinear_heads: bool = False
    """A ReLU before the last layer of the class heads (section 4.3)."""
    paraphrase_structure: bool = False
    """Paraphrase logit from embeddings and their product instead of a dot product."""
    paraphrase_difference: bool = False
    """|e_1 - e_2| beside the embeddings and their product in that structure (not in the paper)."""
    fcn_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """d, the width of the fully-connected layers; the bare baseline's projections are 32 wide."""
    head_dropout: Dropout = 0.3
    """Dropout above the encoder."""
    encoder_dropout: Dropout = 0.1
    """Hidden and attention dropout inside the encoder (the text says 0.3, the code kept 0.1)."""


class MNR(Section):
    """Multiple negatives ranking: the other pairs of a batch are negatives (section 4.4)."""

    enabled: bool = False
    """Multiple negatives ranking (section 4.4): on entailment tasks and on `loss.mnr.tasks`."""
    tasks: tuple[str, ...] = ("similarity",)
    """Pair tasks that it is added to: weighted by label for scores, on the positives of 0/1."""
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
    """Tasks that it is added to, of any kind with labels."""
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


class Batching(Section):
    """The order in which tasks take turns, and how many examples a step has."""

    strategy: Literal["round_robin", "even", "proportional", "temperature", "annealed"] = (
        "round_robin"
    )
    """One epoch of each task in turn (baseline); all tasks' batches shuffled together; or each
    step's task drawn with a probability that follows its number of batches n: n, n^(1/T), or n^a
    with a falling from 1 to 0.2 over the epochs."""
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """T of `temperature`; 1 is proportional, larger is nearer to equal shares."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """K, examples a step."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Sentences that the encoder is given at once; None: all of a step's. Fewer take less memory
    and a second pass; batches and their negatives stay whole. Halved where memory runs out."""


class Optim(Section):
    """AdamW and its learning rate in fine-tuning."""

    lr: LearningRate = 1e-5
    """AdamW's learning rate in the first epoch of fine-tuning."""
    lr_decay: Fraction = 0.0
    """Fraction of the learning rate lost, linearly by epoch, by the end (the paper: 0.8)."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Steps of fine-tuning over which the learning rate rises linearly from 0."""
    head_lr_factor: Positive = 1.0
    """What lies above the encoder is fine-tuned at so many times the learning rate."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer of the encoder is fine-tuned at so many times the learning rate of the layer above
    it (Howard and Ruder 2018: 1 / 2.6); 1: all at the same."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay; not on biases and layer norms."""
    max_grad_norm: Positive | None = None
    """The gradient's norm is cut to this; None: never."""


class Train(Section):
    """Which stages a trial has, how long they are, and on what they run."""

    stages: Annotated[
        tuple[Literal["fit", "probe", "finetune", "swa"], ...], Field(min_length=1)
    ] = ("finetune",)
    """In this order: linear or constant heads fitted in closed form, heads trained on a frozen
    encoder, everything, weight averaging."""
    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Passes of fine-tuning over all tasks' training examples."""
    early_stopping_epochs: Annotated[int, Field(ge=1)] | None = None
    """Fine-tuning ends after so many epochs without a better overall; None: never."""
    eval_batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    """Examples a forward pass in evaluation."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """What matrix products are rounded to; weights, losses and the optimizer stay float32. auto:
    bf16 where the device multiplies it in hardware, fp16 on other GPUs, fp32 on other CPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the CUDA device if there is one."""
    compile: Literal["auto", "never", "always"] = "auto"
    """torch.compile for the encoder's layers; auto: on a GPU where a measurement says it is faster,
    made once for a machine; never on a CPU, where nothing was gained."""


class Probe(Section):
    """The stage `probe`: heads are trained on a frozen encoder (LP-FT, section 4.2)."""

    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Epochs of the stage `probe`: heads alone, the encoder frozen (LP-FT, section 4.2)."""
    lr: LearningRate = 1e-3
    """Its constant learning rate."""
    cache: bool = True
    """Compute the sentence embeddings once and keep them in the cache folder."""


class Swa(Section):
    """The stage `swa`: weights are averaged over epochs at a constant rate."""

    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Epochs of the stage `swa`; the average of their final weights is what is scored and kept."""
    lr: LearningRate = 1e-5
    """Its constant learning rate."""


class Pretrain(Section):
    """Additional pre-training of the encoder by masked language modelling (section 4.2)."""

    enabled: bool = False
    """Additional pre-training (section 4.2): masked language modelling before the trial."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "sentiment",
        "paraphrase",
        "similarity",
    )
    """Tasks whose training sentences are the text; name `nli` for AllNLI's too."""
    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Passes over the sentences."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """At most this many steps; None: all epochs."""
    lr: LearningRate = 5e-5
    """AdamW's constant learning rate."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    """Sentences a step."""
    max_length: Annotated[int, Field(ge=4)] = 100
    """Tokens a sentence is cut at."""
    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are to be predicted."""
    whole_word: bool = True
    """Choose whole words (the author's code), or tokens one by one."""
    replacement: Literal["80/10/10", "mask"] = "80/10/10"
    """A chosen token becomes [MASK] in 80 %, a random token in 10 %, itself in 10 %; or [MASK]."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of order and masks; a seed of its own, so that the trials of a study share the encoder."""
