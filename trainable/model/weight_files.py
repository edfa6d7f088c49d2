"""A model's weights as a trial keeps them: the encoder's in a file of its own.

Epochs that train only heads have one encoder, and so have trials whose encoder is as it was
pretrained: their files of it are hard links to one, which takes its space once. Every folder is
whole by itself and may be removed by itself; where a file system has no links, it has a copy.
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
"""What is not the encoder's."""
ENCODER_FILE = "encoder.safetensors"
"""The encoder's, under its own names."""
_PREFIX = "encoder."


def write_weights(
    weights: Mapping[str, Tensor],
    folder: Path,
    kept: Iterable[Path] = (),
    shared: Path | None = None,
) -> None:
    """Write a model's weights, by name and of any shape [...], into a folder.

    Args:
        kept: folders that were written so before. An encoder with the same bits as that of one of
            them is a link to it.
        shared: a folder of encoders that others are likely to have as well: it is linked to that
            there, or put there for them.
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
        with suppress(OSError):  # others then have copies
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.unlink(missing_ok=True)  # it is damaged, else it had been taken
            os.link(file, place)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A folder's weights, of any shape [...], as `write_weights` was given them; or of one with
    a single file.

    Raises:
        OSError, SafetensorError: a file is missing or damaged.
    """
    weights, file = load_file(folder / WEIGHTS_FILE), folder / ENCODER_FILE
    return weights | join_encoder(load_file(file) if file.is_file() else {})


def split_encoder(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's weights, of any shape [...], parted: the encoder's, under its own names; others."""
    of_encoder = {name for name in weights if name.startswith(_PREFIX)}
    return (
        {name.removeprefix(_PREFIX): weights[name] for name in weights if name in of_encoder},
        {name: weights[name] for name in weights if name not in of_encoder},
    )


def join_encoder(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's weights, of any shape [...], under their names in the model."""
    return {f"{_PREFIX}{name}": value for name, value in encoder.items()}


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """16 hex characters over weights by name, each of any shape [...]."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        digest.update(_bits(value).numpy().data)
    return digest.hexdigest()[:16]


def _save(weights: Mapping[str, Tensor], file: Path) -> None:
    plain = {name: value.contiguous().cpu() for name, value in weights.items()}
    save_file(plain, file, metadata={"format": "pt"})


def _link(source: Path, target: Path, weights: Mapping[str, Tensor]) -> bool:
    """Make `target` a link to a file with exactly these weights, if `source` is one."""
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
    is_alike = one.dtype == other.dtype and one.shape == other.shape
    return is_alike and torch.equal(_bits(one), _bits(other))


def _bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().cpu().view(-1).view(torch.uint8)
