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
from trainable.model.lora import add_lora, let_learn, num_plain_parameters
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
        """Tokens a sentence is cut at."""
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
        """Sentences that the encoder is given at once in training; None: all of a batch's."""

    def forward(self, batch: Batch, noise: Tensor | None = None) -> HeadOutput:
        """What the task's head makes of a batch, `micro_batch_size` sentences at a time.

        Args:
            noise: [S, L, H] on the embedding layer's output, or [S, H] on the sentence embeddings.
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
        """Pooled sentence embeddings [S, H]; `noise` [S, L, H] is added to the embedding layer."""
        return embed(self.encoder, packed, self.pooling, noise)

    def answer(self, task_name: str, e: Tensor, sizes: Sequence[int]) -> HeadOutput:
        """What the task's head makes of sentence embeddings [S, H], `sizes` sentences a side."""
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
        """Frozen: its weights take no gradient, and it stays in eval mode, without dropout."""
        self.is_encoder_frozen = is_frozen
        let_learn(self.encoder, not is_frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but a frozen encoder."""
        super().train(mode)
        if self.is_encoder_frozen:
            self.encoder.eval()
        return self

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model that is kept."""
        return num_plain_parameters(self)

    @property
    def num_encoder_parameters(self) -> int:
        """The encoder's share of `num_parameters`."""
        return num_plain_parameters(self.encoder)


def build_model(config: Config, encoder: str | None = None) -> MultitaskBert:
    """A model to train: pretrained encoder, fresh heads drawn from torch's global generator.

    Args:
        encoder: a folder in place of `model.encoder`, where additional pre-training has made one.
    """
    settings = config.model
    name, revision = (settings.encoder, settings.revision) if encoder is None else (encoder, None)
    loaded = load_pretrained(name, revision, settings.encoder_dropout, settings.pooling)
    if settings.gradient_checkpointing:
        checkpoint_layers(loaded)
    model = MultitaskBert(loaded, config)
    add_lora(loaded, settings.lora)  # after the heads, whose draws are the same without
    return model


def load_member(weights_dir: Path, encoder_dir: Path, config: Config) -> MultitaskBert:
    """A trained model in eval mode, from its weights and the encoder's own folder.

    Where that folder holds weights, as a bundle's does, they are the encoder's, under transformers'
    own names. Half-precision weights become float32.

    Raises:
        IntegrityError: the weights are missing or do not fit the configuration.
    """
    encoder = build_untrained(encoder_dir, config.model.encoder_dropout)
    model = MultitaskBert(encoder, config)
    of_encoder = encoder_dir / WEIGHTS_FILE
    try:
        weights = read_weights(weights_dir)
        if of_encoder.is_file():
            weights |= join_encoder(load_file(of_encoder))
        model.load_state_dict(weights)
    except Exception as error:
        reason = first_line(error)
        raise IntegrityError(f"{weights_dir}: weights cannot be loaded: {reason}") from error
    return model.eval()


def _head_name(name: str, tasks: Mapping[str, Task]) -> str:
    shared = tasks[name].head
    return name if shared is None or shared not in tasks else shared
