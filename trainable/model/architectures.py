"""Differences between encoder families: dropout settings, positions, poolers, widths.

BERT, RoBERTa, XLM-R, CamemBERT, MPNet, ALBERT, ELECTRA, DistilBERT and ModernBERT are tested.

Legend: S sentences, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mlflow_setup.errors import ConfigError

_DROPOUT = {
    "distilbert": ("dropout", "attention_dropout"),
    "modernbert": ("embedding_dropout", "mlp_dropout", "attention_dropout"),
}
_DROPOUT_OF_BERT = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def set_dropout(settings: Any, dropout: float, name: str) -> None:
    """Set the dropout in an encoder's configuration.

    Args:
        name: the encoder's name, for the error message.

    Raises:
        ConfigError: the encoder's family is not supported: its dropout settings are unknown.
    """
    keys = _DROPOUT.get(settings.model_type, _DROPOUT_OF_BERT)
    if not all(hasattr(settings, key) for key in keys):
        raise ConfigError(
            f"model.encoder={name}: a {settings.model_type} encoder is not supported (its dropout "
            "could not be set)",
            fix="name a BERT, RoBERTa, XLM-R, CamemBERT, MPNet, ALBERT, ELECTRA, DistilBERT or "
            "ModernBERT",
        )
    for key in keys:
        setattr(settings, key, dropout)


def checkpoint_layers(encoder: Any) -> None:
    """Enable gradient checkpointing: the backward pass recomputes the layers' activations."""
    enable = getattr(encoder, "activation_checkpointing_enable", None)
    enable = enable or encoder.gradient_checkpointing_enable  # its name in older transformers
    enable({"use_reentrant": False})


def max_tokens(encoder: nn.Module) -> int:
    """The maximum sentence length of the encoder in tokens, special tokens included.

    Models of the RoBERTa family number positions from the padding index + 1 on.
    """
    limit = int(encoder.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
    for name, module in encoder.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:
            return limit - int(module.padding_idx) - 1
    return limit


def token_width(encoder: nn.Module) -> int:
    """Width of the embedding layer's output; for ALBERT and ELECTRA it is not the hidden size."""
    norms = [module for module in encoder.embeddings.modules() if isinstance(module, nn.LayerNorm)]  # type: ignore[union-attr]
    return int(norms[-1].normalized_shape[0])


def pooled(encoder: Any, first: Tensor) -> Tensor:
    """The pooler's output [S, H] for the hidden states [S, H] of the sentences' first tokens."""
    if isinstance(encoder.pooler, nn.Linear):  # ALBERT applies the tanh outside its pooler
        return torch.tanh(encoder.pooler(first))
    output: Tensor = encoder.pooler(first[:, None])
    return output


def require_vocabulary(encoder: nn.Module, tokenizer: Any, name: str) -> None:
    """Raise ConfigError if the tokenizer has tokens without an embedding."""
    rows = int(encoder.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise ConfigError(
            f"model.encoder={name}: its tokenizer has {len(tokenizer)} tokens, its embeddings "
            f"{rows} rows: tokens were added and the embeddings not resized",
            fix="model.resize_token_embeddings(len(tokenizer)), and save both again",
        )
