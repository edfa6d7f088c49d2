"""A frozen encoder's sentence embeddings, computed once and stored in the machine's cache folder.

The trials of a sweep on one machine share the work: each embeds the chunks of sentences that no
other trial has embedded or is embedding. Epochs of the stage probe then only run the heads.

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
from trainable.runtime.cache import exclusive_if_writable, is_being_made, write_cached
from trainable.runtime.progress import Tally
from trainable.runtime.stopping import Stop, raise_if_stopped

_CHUNK_SIZE = 1024
"""Sentences per chunk; `stop` is called before each chunk."""


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
        StopRequested: `stop` returned True.
    """
    settings = f"{encoder_id} {model.pooling} {precision}"
    hidden_size = int(model.encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
    chunks = list(_chunks(encoded.tokens))
    by_chunk: dict[int, Tensor] = {}
    tally = Tally("embedding sentences", len(encoded.tokens.lengths))
    for is_last in (False, True):  # first the chunks that nobody embeds, then those of the others
        for number, tokens in enumerate(chunks):
            if number in by_chunk:
                continue
            path = _path(settings, tokens)
            if not is_last and is_being_made(path):
                continue
            with exclusive_if_writable(path, stop):
                embeddings = _read(path, (len(tokens.lengths), hidden_size))
                if embeddings is not None:
                    tally.add(len(embeddings))
                else:
                    raise_if_stopped(stop, "while sentences were embedded")
                    embeddings = embeddings_of(model, tokens, batch_size, precision, tally).cpu()
                    write_cached(path, save({"embeddings": embeddings}))
                by_chunk[number] = embeddings
    return torch.cat([by_chunk[number] for number in range(len(chunks))])


def _chunks(tokens: Tokens) -> Iterator[Tokens]:
    """The sentences in chunks of at most `_CHUNK_SIZE`, in order."""
    for start in range(0, len(tokens.lengths), _CHUNK_SIZE):
        offsets = tokens.offsets[start : start + _CHUNK_SIZE + 1]
        yield Tokens(tokens.flat[offsets[0] : offsets[-1]], offsets - offsets[0], tokens.pad_id)


def _path(settings: str, tokens: Tokens) -> Path:
    digest = hashlib.sha256(settings.encode())
    digest.update(tokens.flat.data)
    digest.update(tokens.offsets.data)
    return cache_folder() / "embeddings" / f"{digest.hexdigest()[:32]}.safetensors"


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    try:
        embeddings = load_file(path)["embeddings"]
    except (OSError, SafetensorError, KeyError):
        return None
    return embeddings if tuple(embeddings.shape) == shape else None
