"""Stores members' weights in a bundle: each distinct encoder once, heads separately.

An encoder's folder has the layout of transformers, so `AutoModel.from_pretrained` loads it.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensemble.bundle.format import ENCODERS, MEMBERS, WEIGHTS, Precision
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import sha256_file
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.text import short_hash
from trainable.config.tasks import Task
from trainable.model.weight_files import read_weights, split_encoder

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def store_member(name: str, weights: Path, encoder: Path, bundle: Path) -> str:
    """Store a trained model in the folder of a bundle; its encoder only if there is no equal one.

    Args:
        weights: the trial's folder of weights.
        encoder: the folder of the encoder's configuration and tokenizer.

    Returns:
        The name of the encoder's folder below `encoders`.

    Raises:
        IntegrityError: the weights cannot be read, or there is no encoder configuration.
    """
    encoder_weights, heads = split_encoder(_read(weights, read_weights))
    folder = bundle / MEMBERS / safe_name(name, "member")
    folder.mkdir(parents=True)
    _write(heads, folder / WEIGHTS)
    return _store_encoder(encoder_weights, encoder, bundle / ENCODERS)


def lift_encoder(bundle: Path, name: str) -> None:
    """Move an encoder's files from its folder below `encoders` into the bundle's own."""
    folder = bundle / ENCODERS / name
    for path in folder.iterdir():
        path.rename(bundle / path.name)
    folder.rmdir()
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def name_labels(bundle: Path, tasks: Iterable[Task]) -> None:
    """Write the names of the labels to the bundle's `config.json` (`id2label`), for transformers;
    only if exactly one task has names, because the file has room for one."""
    named = [task.labels for task in tasks if task.labels]
    if len(named) == 1:
        path = bundle / "config.json"
        config = json.loads(path.read_bytes())
        config["id2label"] = {str(c): label for c, label in enumerate(named[0])}
        config["label2id"] = {label: c for c, label in enumerate(named[0])}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert_weights(bundle: Path, precision: Precision) -> None:
    """Convert all weights of a bundle's folder to another precision; integers are unchanged."""
    for path in bundle.rglob("*.safetensors"):
        tensors = {
            name: value.to(_DTYPES[precision]) if value.is_floating_point() else value
            for name, value in _read(path, load_file).items()
        }
        _write(tensors, path)


def _store_encoder(tensors: dict[str, Tensor], source: Path, encoders: Path) -> str:
    if not (source / "config.json").is_file():
        raise IntegrityError(f"{source}: holds no encoder configuration")
    new = encoders / "new"
    shutil.copytree(source, new)
    _write(tensors, new / WEIGHTS)
    listing = (f"{path.name}\0{sha256_file(path)}\n" for path in sorted(new.iterdir()))
    name = short_hash(*listing, length=12)
    if (encoders / name).exists():
        shutil.rmtree(new)
    else:
        new.rename(encoders / name)
    return name


def _read(path: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return read(path)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{path}: weights cannot be read: {error}") from None


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})  # which transformers requires
