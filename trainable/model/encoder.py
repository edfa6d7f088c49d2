"""The pretrained encoder: where it is, how it is loaded, how tokens become one embedding.

Legend: S sentences, T tokens of all of them, L tokens of the longest, C chosen tokens, H hidden
size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertModel
from transformers.utils import cached_file
from transformers.utils.logging import (
    disable_progress_bar,
    get_verbosity,
    set_verbosity,
    set_verbosity_error,
)

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import did_you_mean, first_line
from trainable.batches.packing import Packed
from trainable.data.remote import PACKAGED, locate
from trainable.model.architectures import pooled, set_dropout
from trainable.model.kernels.attention import NAME as ATTENTION
from trainable.model.kernels.last_layer import chosen_tokens, first_tokens
from trainable.runtime.precision import to_float32

Pooling = Literal["pooler", "cls", "mean"]

disable_progress_bar()  # a bar for each of hundreds of trials says nothing


def load_pretrained(name: str, revision: str | None, dropout: float, pooling: Pooling) -> nn.Module:
    """A pretrained encoder: safetensors only, no code from the hub, the given dropout inside.

    Raises:
        ConfigError: it cannot be found, has no safetensors, is of a family that is not supported,
            or lacks weights that would be random then (its pooler counts only where it is used).
    """
    place = locate(name)
    commit = _hub_commit(place, revision)
    revision = commit or revision  # of one commit, whatever the hub has meanwhile
    try:
        settings = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        set_dropout(settings, dropout, name)
        model, report = AutoModel.from_pretrained(
            place,
            revision=revision,
            config=settings,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation=ATTENTION,
        )
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = first_line(error)
        raise ConfigError(
            f"model.encoder={name}: cannot be loaded{did_you_mean(name, PACKAGED)}: {reason}",
            fix="name a hub encoder that can be reached and has safetensors, a folder, or minilm",
        ) from None
    missing = sorted(
        key
        for key in report["missing_keys"]
        if pooling == "pooler" or not key.startswith("pooler.")
    )
    if missing:
        raise ConfigError(
            f"model.encoder={name}: its file lacks weights: {', '.join(missing[:5])}",
            fix="name a whole encoder; one without a pooler needs model.pooling=cls or mean",
        )
    model.hub_revision = commit
    assert isinstance(model, nn.Module)
    return model


def hub_revision(encoder: nn.Module) -> str | None:
    """The hub's commit that a pretrained encoder was taken from; None: it was not."""
    commit = getattr(encoder, "hub_revision", None)
    return None if commit is None else str(commit)


def build_untrained(folder: Path, dropout: float) -> nn.Module:
    """An encoder of the shape that `folder/config.json` gives, to load trained weights into.

    Raises:
        ConfigError: the folder holds no encoder configuration.
    """
    try:
        settings = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no encoder configuration: {error}") from None
    set_dropout(settings, dropout, str(folder))
    model: nn.Module = AutoModel.from_config(
        settings, dtype=torch.float32, attn_implementation=ATTENTION, trust_remote_code=False
    )
    return model


def embed(
    encoder: nn.Module, packed: Packed, pooling: Pooling, noise: Tensor | None = None
) -> Tensor:
    """Pooled embeddings [S, H] of sentences, in the order in which they were asked for.

    A BERT works on the row as it is; its relatives are given the sentences padded.

    Args:
        noise: [S, L, H], added to what the embedding layer puts out for each sentence's tokens.

    Raises:
        ConfigError: `pooler` is wanted of an encoder that has none.
    """
    if pooling == "pooler" and getattr(encoder, "pooler", None) is None:
        raise ConfigError("model.pooling=pooler: this encoder has none", fix="model.pooling=mean")
    states_of = _row if takes_rows(encoder) else _padded
    states = states_of(encoder, packed, noise, only_first=pooling != "mean")
    return _pool(encoder, states, packed, pooling)[packed.places]


def token_states(encoder: Any, packed: Packed, chosen: Tensor) -> Tensor:
    """Last states [C, H] of the tokens `chosen` [C] of a BERT's row."""
    states = _before_last_layer(encoder, packed, noise=None)
    return chosen_tokens(encoder.encoder.layer[-1], states, chosen, packed)


def takes_rows(encoder: nn.Module) -> bool:
    """Whether the encoder is a BERT, whose positions and attention `Packed` alone determines."""
    return type(encoder) is BertModel and not encoder.config.is_decoder  # type: ignore[union-attr]


def _row(encoder: Any, packed: Packed, noise: Tensor | None, only_first: bool) -> Tensor:
    """States [T, H] of a row's tokens, without padding; or [S, H] of the sentences' first alone."""
    states, last = _before_last_layer(encoder, packed, noise), encoder.encoder.layer[-1]
    if only_first:
        return first_tokens(last, states, packed)
    last_states: Tensor = last(states[None], packed=packed)
    return last_states[0]


def _before_last_layer(encoder: Any, packed: Packed, noise: Tensor | None) -> Tensor:
    """States [T, H] of a row's tokens after all layers but one."""
    states: Tensor = encoder.embeddings(
        input_ids=packed.input_ids[None], position_ids=packed.positions[None]
    )
    if noise is not None:
        states = states + packed.of_tokens(noise)
    for layer in encoder.encoder.layer[:-1]:
        states = layer(states, packed=packed)
    return states[0]


def _padded(encoder: Any, packed: Packed, noise: Tensor | None, only_first: bool) -> Tensor:
    """The same, by way of sentences [S, L] padded to the longest."""
    input_ids, mask = packed.pad(encoder.config.pad_token_id or 0)
    if noise is not None:
        noise = noise[packed.order, : input_ids.shape[1]]
    with _added(encoder, noise):
        states: Tensor = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    if only_first:
        return states[:, 0]
    return states[packed.sentences, packed.positions]


def _pool(encoder: Any, states: Tensor, packed: Packed, pooling: Pooling) -> Tensor:
    """Embeddings [S, H] in the order of the row.

    `pooler`: tanh layer over [CLS] as pretrained; `cls`: the [CLS] state; `mean`: over the tokens.

    Args:
        states: [T, H] of all tokens for `mean`, else [S, H] of each sentence's [CLS].
    """
    if pooling == "mean":
        return torch.segment_reduce(to_float32(states), "mean", offsets=packed.offsets)
    return states if pooling == "cls" else pooled(encoder, states)


@contextmanager
def _added(encoder: nn.Module, noise: Tensor | None) -> Iterator[None]:
    """Add noise to what the encoder's embedding layer puts out, for one pass."""
    if noise is None:
        yield
        return
    layer = encoder.embeddings
    assert isinstance(layer, nn.Module)
    handle = layer.register_forward_hook(lambda module, inputs, output: output + noise)
    try:
        yield
    finally:
        handle.remove()


def _hub_commit(place: str, revision: str | None) -> str | None:
    """What a revision of a hub encoder stands for now; None for folders, and where none is found.

    The cache has a folder for each commit.
    """
    try:
        path = cached_file(place, "config.json", revision=revision)
    except (OSError, ValueError):  # loading says what is wrong
        return None
    folder = Path(path or "").parent
    return folder.name if folder.parent.name == "snapshots" else None


@contextmanager
def without_load_report() -> Iterator[None]:
    """A fresh head and an unused pooler are what is expected here."""
    before = get_verbosity()
    set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(before)
