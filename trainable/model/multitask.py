"""`MultitaskBert`: one encoder call for all sentences of a batch, then the task's head.

Legend: S sentences (sides x B examples), L tokens of the longest, H hidden size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mlflow_setup.errors import IntegrityError
from mlflow_setup.text import first_line
from trainable.batches.collate import Batch
from trainable.batches.packing import Packed
from trainable.config.config import Config
from trainable.config.tasks import Kind, Task
from trainable.model.architectures import checkpoint_layers, max_tokens
from trainable.model.encoder import build_untrained, embed, load_pretrained
from trainable.model.gradient_cache import embed_in_parts
from trainable.model.heads import HeadOutput, Heads, SharedFCN, build_head
from trainable.model.lora import add_lora, num_plain_parameters, set_trainable
from trainable.model.weight_files import WEIGHTS_FILE, join_encoder, read_weights
from trainable.runtime.rng_state import dropout_state


class MultitaskBert(nn.Module):
    """A shared encoder with a head for each task; tasks may share a head (`Task.head`)."""

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        model, tasks = config.model, config.task_records()
        hidden_size = int(encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.encoder = encoder
        self.pooling = model.pooling
        limit = max_tokens(encoder)
        self.max_length = min(model.max_length or limit, limit)
        """Maximum number of tokens per sentence; longer ones are truncated."""
        self.shared = SharedFCN(hidden_size, model) if model.shared_fcn else None
        self.head_names = {name: _head_name(name, tasks) for name in tasks}
        self.heads = Heads(
            {
                name: build_head(task, hidden_size, model)
                for name, task in tasks.items()
                if self.head_names[name] == name
            }
        )
        self.distill_heads = Heads(
            {
                name: build_head(task, hidden_size, model)
                for name, task in tasks.items()
                if task.kind is not Kind.ENTAILMENT
                and config.distill.enabled
                and config.distill.place == "head"
            }
        )
        self.is_encoder_frozen = False
        self.micro_batch_size = config.batching.micro_batch_size
        """Sentences in one forward pass of the encoder in training; None: all of a batch."""

    def forward(self, batch: Batch, noise: Tensor | None = None) -> HeadOutput:
        """The outputs of the task's head for a batch.

        Args:
            noise: added to the embedding layer's output [S, L, H] or to the sentence embeddings
                [S, H].
        """
        rng_state = dropout_state(next(self.parameters()).device) if self.training else None
        is_pooled = noise is not None and noise.ndim == 2
        e = batch.embeddings
        if e is None:
            assert batch.packed is not None
            token_noise = None if is_pooled else noise
            e = embed_in_parts(self.embed, batch.packed, token_noise, self.micro_batch_size)
        if noise is not None and is_pooled:
            e = e + noise
        return self.answer(batch.task_name, e, batch.sizes)._replace(rng_state=rng_state)

    def embed(self, packed: Packed, noise: Tensor | None = None) -> Tensor:
        """Pooled sentence embeddings [S, H]; `noise` [S, L, H] is added to the embedding layer's
        output."""
        return embed(self.encoder, packed, self.pooling, noise)

    def answer(self, task_name: str, e: Tensor, sizes: Sequence[int]) -> HeadOutput:
        """The outputs of the task's head for sentence embeddings `e` [S, H].

        Args:
            sizes: number of sentences on each side; their sum is S.
        """
        s = self.shared(e) if self.shared is not None else None
        sides = torch.split(e, list(sizes))
        shared_sides = (None,) * len(sizes) if s is None else torch.split(s, list(sizes))
        output = self.heads[self.head_names[task_name]](sides, shared_sides)
        assert isinstance(output, HeadOutput)
        if self.training and task_name in self.distill_heads:
            distilled = self.distill_heads[task_name](sides, shared_sides)
            output = output._replace(distilled=distilled.outputs)
        return output

    def freeze_encoder(self, is_frozen: bool) -> None:
        """Freeze the encoder (no gradients, eval mode without dropout), or unfreeze it."""
        self.is_encoder_frozen = is_frozen
        set_trainable(self.encoder, not is_frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the model; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.is_encoder_frozen:
            self.encoder.eval()
        return self

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the saved model."""
        return num_plain_parameters(self)

    @property
    def num_encoder_parameters(self) -> int:
        """Number of the encoder's parameters, a part of `num_parameters`."""
        return num_plain_parameters(self.encoder)


def build_model(config: Config, encoder: str | None = None) -> MultitaskBert:
    """A model to train: pretrained encoder, heads initialised from torch's global generator.

    Args:
        encoder: folder of an encoder after additional pre-training, used instead of
            `model.encoder`.
    """
    settings = config.model
    name, revision = (settings.encoder, settings.revision) if encoder is None else (encoder, None)
    loaded = load_pretrained(name, revision, settings.encoder_dropout, settings.pooling)
    if settings.gradient_checkpointing:
        checkpoint_layers(loaded)
    model = MultitaskBert(loaded, config)
    add_lora(loaded, settings.lora)  # after the heads, so that LoRA does not change their init
    return model


def load_member(weights_dir: Path, encoder_dir: Path, config: Config) -> MultitaskBert:
    """A trained model in eval mode, from its weights and the encoder's folder.

    If the encoder's folder has weights, as in a bundle, they are the encoder's, under transformers'
    names. Half-precision weights are converted to float32.

    Raises:
        IntegrityError: the weights are missing or do not fit the configuration.
    """
    encoder = build_untrained(encoder_dir, config.model.encoder_dropout)
    model = MultitaskBert(encoder, config)
    encoder_file = encoder_dir / WEIGHTS_FILE
    try:
        weights = read_weights(weights_dir)
        if encoder_file.is_file():
            weights |= join_encoder(load_file(encoder_file))
        model.load_state_dict(weights)
    except Exception as error:
        reason = first_line(error)
        raise IntegrityError(f"{weights_dir}: weights cannot be loaded: {reason}") from error
    return model.eval()


def _head_name(name: str, tasks: Mapping[str, Task]) -> str:
    shared = tasks[name].head
    return name if shared is None or shared not in tasks else shared
