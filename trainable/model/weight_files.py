"""The files of a model's weights: one for the encoder, one for the rest.

Epochs that train only heads have the same encoder, and so have trials with a frozen encoder. Their
encoder files are hard links to one file, so that it takes its space once. Each folder is complete
and can be removed without harm to the others; without support for hard links it has a copy.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
"""The weights that are not the encoder's."""
ENCODER_FILE = "encoder.safetensors"
"""The encoder's weights, without the prefix `encoder.` in their names."""
_PREFIX = "encoder."


def write_weights(
    weights: Mapping[str, Tensor],
    folder: Path,
    kept: Iterable[Path] = (),
    shared: Path | None = None,
) -> None:
    """Write a model's weights, by name and of any shape [...], into a folder.

    Args:
        kept: folders of earlier calls. If one has the same encoder, bit for bit, its file is
            linked.
        shared: a folder of encoder files that other trials can link to; the encoder is linked to
            the file there, or added if there is none.
    """
    encoder, others = split_encoder(weights)
    _save(others, folder / WEIGHTS_FILE)
    file = folder / ENCODER_FILE
    if any(_link(each / ENCODER_FILE, file, encoder) for each in kept):
        return
    place = None if shared is None else shared / f"{weights_fingerprint(encoder)}.safetensors"
    if place is not None and _link(place, file, encoder):
        return
    _save(encoder, file)
    if place is not None:
        with suppress(OSError):  # without links, other trials write copies
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.unlink(missing_ok=True)  # a damaged file, which could not be linked above
            os.link(file, place)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder of `write_weights`, by name and of any shape [...]; the encoder's
    file may be missing.

    Raises:
        OSError, SafetensorError: a file is missing or damaged.
    """
    weights, file = load_file(folder / WEIGHTS_FILE), folder / ENCODER_FILE
    return weights | join_encoder(load_file(file) if file.is_file() else {})


def split_encoder(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's weights, of any shape [...], split into those of the encoder, without the prefix
    `encoder.`, and the others."""
    encoder, others = dict[str, Tensor](), dict[str, Tensor]()
    for name, value in weights.items():
        if name.startswith(_PREFIX):
            encoder[name.removeprefix(_PREFIX)] = value
        else:
            others[name] = value
    return encoder, others


def join_encoder(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's weights, of any shape [...], with the prefix `encoder.` added to their names."""
    return {f"{_PREFIX}{name}": value for name, value in encoder.items()}


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A hash, 16 hex characters, of weights by name, each of any shape [...]."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        digest.update(_bits(value).numpy().data)
    return digest.hexdigest()[:16]


def _save(weights: Mapping[str, Tensor], file: Path) -> None:
    plain = {name: value.contiguous().cpu() for name, value in weights.items()}
    save_file(plain, file, metadata={"format": "pt"})


def _link(source: Path, target: Path, weights: Mapping[str, Tensor]) -> bool:
    """Make `target` a hard link to `source` if that file has exactly these weights (bit for bit);
    return whether it was made."""
    if source.is_symlink():
        return False
    try:
        with safe_open(source, framework="pt") as file:
            if set(file.keys()) != set(weights):
                return False
            for name in sorted(weights, key=lambda name: weights[name].numel()):
                if not _is_same(file.get_tensor(name), weights[name]):
                    return False
        os.link(source, target)
    except (OSError, SafetensorError):
        return False
    return True


def _is_same(one: Tensor, other: Tensor) -> bool:
    is_same_kind = one.dtype == other.dtype and one.shape == other.shape
    return is_same_kind and torch.equal(_bits(one), _bits(other))


def _bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().cpu().view(-1).view(torch.uint8)
