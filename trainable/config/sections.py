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


class Lora(Section):
    """LoRA: the encoder's matrices stay, narrow ones beside them learn (not in the paper)."""

    rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Rank of the narrow matrices beside every linear layer of the encoder; None: no LoRA, the
    encoder's own weights learn. They are merged into the weights that a trial keeps."""
    alpha: Positive = 16.0
    """Their product is multiplied by alpha / rank."""


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
    similarity_size: Annotated[int, Field(ge=1, le=131072)] | None = None
    """Width of the similarity embeddings z, the shared layers' d among it; None: 2 d with shared
    layers, else 32 as in the bare baseline. It scales SimCSE's dot products."""
    encoder_dropout: Dropout = 0.1
    """Hidden and attention dropout inside the encoder (the text says 0.3, the code kept 0.1)."""
    gradient_checkpointing: bool = False
    """Keep the layers' inputs alone and compute the rest again for the gradient: less memory, more
    time, equal numbers."""
    lora: Lora = Lora()


class Batching(Section):
    """The order in which tasks take turns, and how many examples a step has."""

    strategy: Literal["round_robin", "even", "proportional", "temperature", "annealed"] = (
        "round_robin"
    )
    """One epoch of each task in turn (baseline); all tasks' batches shuffled together; or each
    step's task drawn with a probability that follows its number of batches n: n, n^(1/T), or n^a
    with a falling from 1 to 0.2 over the epochs."""
    task_order: tuple[str, ...] = ("similarity", "paraphrase", "sentiment")
    """The turns of `round_robin` (the author's code); tasks that are not named come after them."""
    by_length: bool = True
    """A batch is of sentences of like length, which saves padding; or drawn evenly, as the paper's
    were. It decides which sentences are each other's negatives in MNR and SimCSE."""
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
    lr_decay_per_epoch: NonNegative | None = None
    """What the learning rate loses in each epoch, in its own unit and never below 0 (the paper:
    4e-7), in place of `lr_decay`."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Steps of fine-tuning over which the learning rate rises linearly from 0."""
    head_lr_factor: Positive = 1.0
    """What lies above the encoder is fine-tuned at so many times the learning rate."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer of the encoder is fine-tuned at so many times the learning rate of the layer above
    it (Howard and Ruder 2018: 1 / 2.6); 1: all at the same."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay; not on biases and layer norms."""
    eps: Positive = 1e-8
    """What AdamW adds to the root of the second moment."""
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
    finetuned_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What fine-tuning scores and keeps: weights so far on the straight way from those that it
    began with to its own (WiSE-FT, Wortsman et al. 2022); 1: its own. Less needs a probe before."""
    continue_from: Literal["best", "last"] = "best"
    """A stage starts from the best overall epoch of the stage before it (the author's code), or
    from its last."""
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
    """Tasks whose training sentences are the text; name `nli` for AllNLI's too. With tasks of your
    own: all that are trained and have labels, unless named."""
    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Passes over the sentences."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """At most this many steps; None: all epochs."""
    repeats: bool = True
    """A sentence that stands in the text several times is read as often; false: once."""
    lr: LearningRate = 5e-5
    """AdamW's learning rate in the first step."""
    lr_decay: Fraction = 1.0
    """Fraction of the learning rate lost, linearly by step, by the end; 0: it is constant."""
    max_grad_norm: Positive | None = 1.0
    """The gradient's norm is cut to this; None: never."""
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
