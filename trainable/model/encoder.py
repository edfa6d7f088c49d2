"""The pretrained encoder: loading it, and embedding sentences with it.

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

disable_progress_bar()  # one bar per trial is noise in a sweep


def load_pretrained(name: str, revision: str | None, dropout: float, pooling: Pooling) -> nn.Module:
    """A pretrained encoder with the given dropout; only safetensors are read, and no code from the
    hub is run.

    Raises:
        ConfigError: it cannot be found, has no safetensors, is of a family that is not supported,
            or lacks weights, which would be random (the pooler's only matter for that pooling).
    """
    place = locate(name)
    commit = _hub_commit(place, revision)
    revision = commit or revision  # the same commit for all files, even if the hub changes
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
            fix="name a complete encoder; one without a pooler needs model.pooling=cls or mean",
        )
    model.hub_revision = commit
    assert isinstance(model, nn.Module)
    return model


def hub_revision(encoder: nn.Module) -> str | None:
    """The hub commit that a pretrained encoder was loaded from; None: not from the hub."""
    commit = getattr(encoder, "hub_revision", None)
    return None if commit is None else str(commit)


def build_untrained(folder: Path, dropout: float) -> nn.Module:
    """An encoder with random weights, built from `folder/config.json`.

    Raises:
        ConfigError: the folder has no encoder configuration.
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
    """Pooled embeddings [S, H] of sentences, in the order in which they were given to `pack`.

    BERT models process the packed row; other families get padded sentences.

    Args:
        noise: [S, L, H], added to the output of the embedding layer.

    Raises:
        ConfigError: `pooling` is `pooler`, and the encoder has no pooler.
    """
    if pooling == "pooler" and getattr(encoder, "pooler", None) is None:
        raise ConfigError("model.pooling=pooler: this encoder has none", fix="model.pooling=mean")
    states_of = _packed_states if takes_rows(encoder) else _padded_states
    states = states_of(encoder, packed, noise, only_first=pooling != "mean")
    return _pool(encoder, states, packed, pooling)[packed.inverse_order]


def token_states(encoder: Any, packed: Packed, chosen: Tensor) -> Tensor:
    """Last hidden states [C, H] of the tokens `chosen` [C] (row indices), by a BERT model."""
    states = _before_last_layer(encoder, packed, noise=None)
    return chosen_tokens(encoder.encoder.layer[-1], states, chosen, packed)


def takes_rows(encoder: nn.Module) -> bool:
    """Whether the encoder can process packed rows: a BERT, whose positions and attention depend on
    `Packed` alone."""
    return type(encoder) is BertModel and not encoder.config.is_decoder  # type: ignore[union-attr]


def _packed_states(encoder: Any, packed: Packed, noise: Tensor | None, only_first: bool) -> Tensor:
    """Hidden states [T, H] of a row's tokens, or [S, H] of the sentences' first tokens only."""
    states, last = _before_last_layer(encoder, packed, noise), encoder.encoder.layer[-1]
    if only_first:
        return first_tokens(last, states, packed)
    last_states: Tensor = last(states[None], packed=packed)
    return last_states[0]


def _before_last_layer(encoder: Any, packed: Packed, noise: Tensor | None) -> Tensor:
    """Hidden states [T, H] of a row's tokens, after all layers but the last."""
    states: Tensor = encoder.embeddings(
        input_ids=packed.input_ids[None], position_ids=packed.positions[None]
    )
    if noise is not None:
        states = states + packed.of_tokens(noise)
    for layer in encoder.encoder.layer[:-1]:
        states = layer(states, packed=packed)
    return states[0]


def _padded_states(encoder: Any, packed: Packed, noise: Tensor | None, only_first: bool) -> Tensor:
    """The same as `_packed_states`, computed from sentences padded to the longest, [S, L]."""
    input_ids, mask = packed.pad(encoder.config.pad_token_id or 0)
    if noise is not None:
        noise = noise[packed.order, : input_ids.shape[1]]
    with _add_noise(encoder, noise):
        states: Tensor = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    if only_first:
        return states[:, 0]
    return states[packed.sentences, packed.positions]


def _pool(encoder: Any, states: Tensor, packed: Packed, pooling: Pooling) -> Tensor:
    """Embeddings [S, H] in the order of the row.

    `pooler`: the pretrained tanh layer over [CLS]; `cls`: the state of [CLS]; `mean`: the mean over
    the tokens.

    Args:
        states: of all tokens [T, H] for `mean`, else of each sentence's [CLS] [S, H].
    """
    if pooling == "mean":
        return torch.segment_reduce(to_float32(states), "mean", offsets=packed.offsets)
    return states if pooling == "cls" else pooled(encoder, states)


@contextmanager
def _add_noise(encoder: nn.Module, noise: Tensor | None) -> Iterator[None]:
    """Add noise to the output of the encoder's embedding layer while the block runs."""
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
    """The commit that a revision of a hub encoder is now; None for folders, or if there is none.

    It is the name of a folder in the hub's local cache.
    """
    try:
        path = cached_file(place, "config.json", revision=revision)
    except (OSError, ValueError):  # loading the model reports the problem
        return None
    folder = Path(path or "").parent
    return folder.name if folder.parent.name == "snapshots" else None


@contextmanager
def without_load_report() -> Iterator[None]:
    """Silence transformers' warnings about a new head and an unused pooler, which are expected."""
    before = get_verbosity()
    set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(before)
