"""A frozen encoder's sentence embeddings: computed once, kept in the cache folder of the machine.

The trials of a sweep on one machine share them, and the work: each embeds the stretches of
sentences that no other has or is at. An epoch of probing then only runs the heads.

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
from trainable.runtime.cache import exclusive_if_kept, is_being_made, keep
from trainable.runtime.progress import Tally
from trainable.runtime.stopping import Stop, go_on

_SENTENCES = 1024
"""Sentences of a stretch, which one process embeds before it asks whether to stop."""


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
    settings = f"{encoder_id} {model.pooling} {precision}"
    hidden_size = int(model.encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
    stretches = list(_stretches(encoded.tokens))
    found: dict[int, Tensor] = {}
    tally = Tally("embedding sentences", len(encoded.tokens.lengths))
    for is_last in (False, True):  # first what no other is at, then what the others have made
        for number, tokens in enumerate(stretches):
            if number in found:
                continue
            path = _path(settings, tokens)
            if not is_last and is_being_made(path):
                continue
            with exclusive_if_kept(path, stop):
                embeddings = _read(path, (len(tokens.lengths), hidden_size))
                if embeddings is not None:
                    tally.add(len(embeddings))
                else:
                    go_on(stop, "while sentences were embedded")
                    embeddings = embeddings_of(model, tokens, batch_size, precision, tally).cpu()
                    keep(path, save({"embeddings": embeddings}))
                found[number] = embeddings
    return torch.cat([found[number] for number in range(len(stretches))])


def _stretches(tokens: Tokens) -> Iterator[Tokens]:
    """All sentences in their order, at most so many at a time."""
    for start in range(0, len(tokens.lengths), _SENTENCES):
        offsets = tokens.offsets[start : start + _SENTENCES + 1]
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
