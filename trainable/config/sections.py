"""The sections of a trial's configuration: one class each, with range, default and meaning.

The defaults are the paper's baseline; `docs/paper.md` gives the reasons where the paper has no
value.
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
    """Where the examples are, which tasks are trained, and on how many rows."""

    dir: str = ""
    """Folder with the tasks' files, or its storage URI (`s3://...`), which each machine downloads
    once. `ensweep data sample DIR` writes a generated data set."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = (
        "sentiment",
        "paraphrase",
        "similarity",
    )
    """Names of the tasks to train on: the paper's four and those declared under `tasks`."""
    on_bad_rows: Literal["error", "skip"] = "error"
    """What to do with defective rows: stop before training, or drop, count and log them."""
    max_train_examples: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of training examples per task, sampled with the seed."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of each task's training examples that is used, sampled with the seed."""


class Lora(Section):
    """LoRA: the encoder's weights are frozen, low-rank updates are trained (not in the paper)."""

    rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Rank of the update of every linear layer of the encoder; None: no LoRA, the encoder's own
    weights are trained. The updates are merged into the weights that a trial keeps."""
    alpha: Positive = 16.0
    """The updates are multiplied by alpha / rank."""


class Model(Section):
    """The encoder, its sentence embedding, and the heads (sections 4.1 and 4.3)."""

    encoder: str = "bert-base-uncased"
    """A model of the BERT family (BERT, RoBERTa, XLM-R, CamemBERT, MPNet, ALBERT, ELECTRA,
    DistilBERT, ModernBERT): a hub name, a folder or its storage URI, or `minilm` (the packaged
    MiniLM-L6)."""
    revision: str | None = None
    """Revision of a hub encoder; None: the newest. The trial records it."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """Sentence embedding: the tanh pooler over [CLS] (the paper), the hidden state of [CLS], or the
    mean over the tokens."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Maximum number of tokens per sentence, longer ones are truncated; None: the encoder's
    limit."""
    heads: Literal["paper", "linear", "constant"] = "paper"
    """paper: the paper's heads; linear: one linear layer over the embedding, for pairs over [u*v,
    |u-v|, cos(u, v)]; constant: the same output for every row. The baselines of a sweep use linear
    and constant heads."""
    shared_fcn: bool = False
    """Two fully-connected layers shared by all tasks (section 4.3, weight-sharing)."""
    nonlinear_heads: bool = False
    """A ReLU before the last layer of the class heads (section 4.3)."""
    paraphrase_structure: bool = False
    """Compute the paraphrase logit from the two embeddings and their product, instead of from a dot
    product."""
    paraphrase_difference: bool = False
    """Add |e_1 - e_2| to the inputs of `paraphrase_structure` (not in the paper)."""
    fcn_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """Width d of the fully-connected layers; the baseline's projections always have width 32."""
    head_dropout: Dropout = 0.3
    """Dropout in the heads and the shared layers."""
    similarity_size: Annotated[int, Field(ge=1, le=131072)] | None = None
    """Width of the similarity embeddings z, including the shared layers' d; None: 2 d with shared
    layers, else 32 as in the baseline. It scales SimCSE's dot products."""
    encoder_dropout: Dropout = 0.1
    """Hidden and attention dropout in the encoder (0.3 in the paper's text, 0.1 in its code)."""
    gradient_checkpointing: bool = False
    """Store only the layers' inputs and recompute the activations in the backward pass: less
    memory, more time, the same results."""
    lora: Lora = Lora()


class Batching(Section):
    """The order of the tasks' batches, and the batch size."""

    strategy: Literal["round_robin", "even", "proportional", "temperature", "annealed"] = (
        "round_robin"
    )
    """round_robin: one epoch of each task in turn (baseline); even: the batches of all tasks,
    shuffled. The others sample each step's task with a probability that depends on its number of
    batches n: n (proportional), n^(1/T) (temperature), or n^a with a falling from 1 to 0.2 over the
    epochs (annealed)."""
    task_order: tuple[str, ...] = ("similarity", "paraphrase", "sentiment")
    """Order of the tasks in `round_robin` (the author's code); other tasks come after these."""
    by_length: bool = True
    """true: batches of sentences of similar length, which saves padding; false: uniformly random
    batches, as in the paper. Affects which sentences are each other's negatives in MNR and
    SimCSE."""
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """T of the strategy `temperature`; 1 is proportional, larger values are closer to uniform."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """K, examples per step."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Number of sentences in one forward pass of the encoder; None: all of a step. Less than all
    takes less memory and a second forward pass; batches and their in-batch negatives stay whole. It
    is halved automatically when memory runs out."""


class Optim(Section):
    """AdamW and its learning rate schedule in fine-tuning."""

    lr: LearningRate = 1e-5
    """Learning rate in the first epoch of fine-tuning."""
    lr_decay: Fraction = 0.0
    """Linear decay by epoch: lr x (1 - lr_decay x (epoch - 1) / num_epochs), epochs from 1 (the
    paper: 0.8)."""
    lr_decay_per_epoch: NonNegative | None = None
    """Amount by which the learning rate falls after each epoch, never below 0 (the paper: 4e-7);
    instead of `lr_decay`."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Steps of fine-tuning over which the learning rate rises linearly from 0."""
    head_lr_factor: Positive = 1.0
    """Factor of the learning rate for the parameters above the encoder."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning rate decay: factor of each encoder layer's learning rate relative to the
    layer above it (Howard and Ruder 2018: 1 / 2.6); 1: the same for all."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay; not on biases and layer norms."""
    eps: Positive = 1e-8
    """AdamW's epsilon, added to the root of the second moment."""
    max_grad_norm: Positive | None = None
    """Gradients are clipped to this norm; None: no clipping."""


class Train(Section):
    """The stages of a trial, their length, and the device and precision."""

    stages: Annotated[
        tuple[Literal["fit", "probe", "finetune", "swa"], ...], Field(min_length=1)
    ] = ("finetune",)
    """Stages of training, in this order: fit (linear or constant heads, in closed form), probe
    (heads on a frozen encoder), finetune (all weights), swa (weight averaging)."""
    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Epochs of the stage `finetune`."""
    finetuned_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share a of the fine-tuned weights in the model that is scored and kept: (1 - a) x weights
    before fine-tuning + a x weights after it (WiSE-FT, Wortsman et al. 2022). 1: the fine-tuned
    weights; less needs the stage probe."""
    continue_from: Literal["best", "last"] = "best"
    """Epoch of the previous stage that a stage starts from: the one with the best overall score
    (the author's code), or the last."""
    early_stopping_epochs: Annotated[int, Field(ge=1)] | None = None
    """Fine-tuning ends after this many epochs without a better overall score; None: never."""
    eval_batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    """Examples per forward pass in evaluation."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; weights, losses and optimizer states are always float32. auto:
    bf16 where the device multiplies it in hardware, fp16 on other GPUs, fp32 on other CPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the CUDA device if there is one."""
    compile: Literal["auto", "never", "always"] = "auto"
    """torch.compile for the encoder's layers; auto: on GPUs where it is faster, measured once per
    machine; never on CPUs, where it was no faster."""


class Probe(Section):
    """The stage `probe`: heads are trained on a frozen encoder (LP-FT, section 4.2)."""

    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Epochs of the stage `probe`: only heads are trained, the encoder is frozen (LP-FT, section
    4.2)."""
    lr: LearningRate = 1e-3
    """Constant learning rate of the stage `probe`."""
    cache: bool = True
    """Compute the sentence embeddings once and keep them in the cache folder."""


class Swa(Section):
    """The stage `swa`: weights are averaged over epochs at a constant learning rate."""

    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Epochs of the stage `swa`; the average of the weights at their ends is scored and kept."""
    lr: LearningRate = 1e-5
    """Constant learning rate of the stage `swa`."""


class Pretrain(Section):
    """Additional pre-training of the encoder by masked language modelling (section 4.2)."""

    enabled: bool = False
    """Additional pre-training (section 4.2): masked language modelling before the trial."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "sentiment",
        "paraphrase",
        "similarity",
    )
    """Tasks whose training sentences are the text; add `nli` for AllNLI. Default for your own
    tasks: all trained tasks with labels."""
    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Epochs over the sentences."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of steps; None: all epochs."""
    repeats: bool = True
    """true: sentences that occur several times in the data are kept as often; false: once."""
    lr: LearningRate = 5e-5
    """AdamW's learning rate in the first step."""
    lr_decay: Fraction = 1.0
    """Linear decay by step: lr x (1 - lr_decay x step / num_steps), with steps from 0."""
    max_grad_norm: Positive | None = 1.0
    """Gradients are clipped to this norm; None: no clipping."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    """Sentences per step."""
    max_length: Annotated[int, Field(ge=4)] = 100
    """Maximum number of tokens per sentence; longer ones are truncated."""
    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the tokens that are selected for prediction."""
    whole_word: bool = True
    """Select whole words (the author's code); false: single tokens."""
    replacement: Literal["80/10/10", "mask"] = "80/10/10"
    """80/10/10: a selected token becomes [MASK] in 80 % of cases, a random token in 10 %, and is
    unchanged in 10 %; mask: always [MASK]."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of order and masks; separate from `seed`, so that trials with different seeds share the
    encoder."""
