"""The files by which sentence-transformers loads a bundle's main encoder as it was trained.

It would take the mean over the tokens of any encoder that comes without them. The forms are those
that all its versions read: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
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
    """The member on the bundle's own encoder with the most tasks; None: there is none."""
    answered = {name: 0.0 for name, entry in contents.members.items() if entry.encoder == MAIN}
    for share in (share for entry in contents.tasks.values() for share in entry.members):
        if share.member in answered:
            answered[share.member] += abs(share.weight)
    return max(answered, key=lambda name: (answered[name], name), default=None)


def write_modules(folder: Path, contents: Contents) -> None:
    """Describe the main encoder's embedding: tokens, their pooling, the pooler's layer.

    Args:
        folder: of the bundle, with the main encoder's own files.
    """
    name = main_member(contents)
    assert name is not None
    model = from_flat(contents.members[name].config).model
    with torch.device("meta"):  # its shape alone
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
    """A pooler is a linear layer and a tanh above the first token's state, in every family."""
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
