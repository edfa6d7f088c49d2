"""What encoders differ in: names of their dropout, positions, poolers, widths and vocabularies.

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
    """Set the dropout inside an encoder of these settings.

    Args:
        name: of the encoder, for the error.

    Raises:
        ConfigError: it has none that could be set: it is not of a family that is supported.
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
    """Have the encoder's layers computed again for the gradient, by the same dropout masks."""
    enable = getattr(encoder, "activation_checkpointing_enable", None)
    enable = enable or encoder.gradient_checkpointing_enable  # as transformers called it at first
    enable({"use_reentrant": False})


def max_tokens(encoder: nn.Module) -> int:
    """Tokens of the longest sentence that the encoder takes, the special ones included.

    RoBERTa and its relatives count positions from the padding's index + 1 on.
    """
    limit = int(encoder.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
    for name, module in encoder.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:
            return limit - int(module.padding_idx) - 1
    return limit


def token_width(encoder: nn.Module) -> int:
    """Width of what the embedding layer puts out: ALBERT's and ELECTRA's is not the hidden size."""
    norms = [module for module in encoder.embeddings.modules() if isinstance(module, nn.LayerNorm)]  # type: ignore[union-attr]
    return int(norms[-1].normalized_shape[0])


def pooled(encoder: Any, first: Tensor) -> Tensor:
    """The pooler's output [S, H] for the states [S, H] of the sentences' first tokens."""
    if isinstance(encoder.pooler, nn.Linear):  # ALBERT's has its tanh beside it
        return torch.tanh(encoder.pooler(first))
    output: Tensor = encoder.pooler(first[:, None])
    return output


def require_vocabulary(encoder: nn.Module, tokenizer: Any, name: str) -> None:
    """Raises ConfigError where the tokenizer has tokens without an embedding."""
    rows = int(encoder.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise ConfigError(
            f"model.encoder={name}: its tokenizer has {len(tokenizer)} tokens, its embeddings "
            f"{rows} rows: tokens were added and the embeddings not resized",
            fix="model.resize_token_embeddings(len(tokenizer)), and save both again",
        )
