"""A frozen encoder's sentence embeddings: computed once, kept in the cache folder of the machine.

The trials of a sweep on one machine share them; an epoch of probing then only runs the heads.

Legend: N sentences, H hidden size.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mlflow_setup.filesystem.paths import cache_folder
from trainable.batches.tokenization import Encoded, Tokens
from trainable.evaluation.inference import embeddings_of
from trainable.model.multitask import MultitaskBert
from trainable.runtime.cache import exclusive_if_kept, keep
from trainable.runtime.progress import Tally
from trainable.runtime.stopping import Stop, go_on

_SENTENCES = 4096
"""Sentences embedded between two questions whether to stop."""


def sentence_embeddings(
    model: MultitaskBert,
    encoder_id: str,
    encoded: Encoded,
    batch_size: int,
    precision: torch.dtype,
    stop: Stop,
) -> Tensor:
    """Embeddings [N, H] in float32 of all tokenised sentences, without dropout.

    Args:
        encoder_id: `weights_fingerprint` of the encoder.

    Raises:
        AskedToStop: before they were there.
    """
    digest = hashlib.sha256(f"{encoder_id} {model.pooling} {precision}".encode())
    digest.update(encoded.tokens.flat.data)
    digest.update(encoded.tokens.offsets.data)
    path = cache_folder() / "embeddings" / f"{digest.hexdigest()[:32]}.safetensors"
    shape = (len(encoded.tokens.lengths), int(model.encoder.config.hidden_size))  # type: ignore[union-attr,arg-type]
    with exclusive_if_kept(path, stop):  # the trials beside this one wait instead of doing it too
        embeddings = _read(path, shape)
        if embeddings is None:
            pieces = []
            tally = Tally("embedding sentences", shape[0])
            for tokens in _pieces(encoded.tokens):
                go_on(stop, "while sentences were embedded")
                pieces.append(embeddings_of(model, tokens, batch_size, precision, tally).cpu())
            embeddings = torch.cat(pieces)
            keep(path, save({"embeddings": embeddings}))
    return embeddings


def _pieces(tokens: Tokens) -> Iterator[Tokens]:
    """Stretches of at most so many sentences."""
    for start in range(0, len(tokens.lengths), _SENTENCES):
        offsets = tokens.offsets[start : start + _SENTENCES + 1]
        yield Tokens(tokens.flat[offsets[0] : offsets[-1]], offsets - offsets[0], tokens.pad_id)


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    try:
        embeddings = load_file(path)["embeddings"]
    except (OSError, SafetensorError, KeyError):
        return None
    return embeddings if tuple(embeddings.shape) == shape else None
