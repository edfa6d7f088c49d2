"""The files with which sentence-transformers loads a bundle's main encoder with its own pooling.

Without them, sentence-transformers would use mean pooling for any encoder. The formats are those
that all of its versions read: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ensemble.bundle.format import DENSE, MAIN, POOLING, WEIGHTS, Contents
from trainable.config.parse import from_flat
from trainable.config.sections import Model
from trainable.model.architectures import max_tokens
from trainable.model.encoder import build_untrained

_MODULE = "sentence_transformers.models"


def main_member(contents: Contents) -> str | None:
    """Return the member on the bundle's main encoder with the largest total weight; None: there is
    none."""
    totals = {name: 0.0 for name, entry in contents.members.items() if entry.encoder == MAIN}
    for share in (share for entry in contents.tasks.values() for share in entry.members):
        if share.member in totals:
            totals[share.member] += abs(share.weight)
    return max(totals, key=lambda name: (totals[name], name), default=None)


def write_modules(folder: Path, contents: Contents) -> None:
    """Write the modules of the main encoder's embedding: transformer, pooling, and a pooler's dense
    layer.

    Args:
        folder: of the bundle, with the main encoder's files.
    """
    name = main_member(contents)
    assert name is not None
    model = from_flat(contents.members[name].config).model
    with torch.device("meta"):  # only its configuration is needed, not weights
        encoder = build_untrained(folder, model.encoder_dropout)
    size, limit = int(encoder.config.hidden_size), max_tokens(encoder)  # type: ignore[union-attr,arg-type]
    types = {"": "Transformer", POOLING: "Pooling"}
    if model.pooling == "pooler":
        types[DENSE] = "Dense"
        _write_pooler(folder, size)
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_MODULE}.{kind}"}
        for number, (path, kind) in enumerate(types.items())
    ]
    _write(folder / "modules.json", modules)
    length = min(model.max_length or limit, limit)
    settings = {"max_seq_length": length, "do_lower_case": False}
    _write(folder / "sentence_bert_config.json", settings)
    _write(folder / POOLING / "config.json", _pooling(model, size))


def _pooling(model: Model, size: int) -> dict[str, Any]:
    is_mean = model.pooling == "mean"
    return {
        "word_embedding_dimension": size,
        "pooling_mode_cls_token": not is_mean,
        "pooling_mode_mean_tokens": is_mean,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def _write_pooler(folder: Path, size: int) -> None:
    """Write the pooler as a dense module: in every architecture it is a linear layer and a tanh on
    the first token's hidden state."""
    weights = load_file(folder / WEIGHTS)
    pooler = {
        f"linear.{name.rpartition('.')[2]}": value
        for name, value in weights.items()
        if name.startswith("pooler.")
    }
    settings = {
        "in_features": size,
        "out_features": size,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    _write(folder / DENSE / "config.json", settings)
    save_file(pooler, folder / DENSE / WEIGHTS, metadata={"format": "pt"})


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
