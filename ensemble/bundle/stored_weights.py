"""Members' weights as a bundle stores them: each distinct encoder once, heads by themselves.

An encoder's folder has what transformers' own folders have, under its names, so that
`AutoModel.from_pretrained` loads it.
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
    """Store a trained model in the folder of a bundle, its encoder unless an equal one is there.

    Args:
        weights: the folder that training wrote.
        encoder: folder of configuration and tokenizer.

    Returns:
        The encoder's folder below `encoders`.

    Raises:
        IntegrityError: no safetensors, or no encoder configuration.
    """
    of_encoder, heads = split_encoder(_read(weights, read_weights))
    folder = bundle / MEMBERS / safe_name(name, "member")
    folder.mkdir(parents=True)
    _write(heads, folder / WEIGHTS)
    return _store_encoder(of_encoder, encoder, bundle / ENCODERS)


def lift_encoder(bundle: Path, name: str) -> None:
    """Move an encoder's files from its folder below `encoders` into the bundle's own."""
    folder = bundle / ENCODERS / name
    for path in folder.iterdir():
        path.rename(bundle / path.name)
    folder.rmdir()
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def name_labels(bundle: Path, tasks: Iterable[Task]) -> None:
    """Put the labels' names into the bundle's own `config.json` (`id2label`), as transformers has
    them; where several tasks have names, that file has no place for them."""
    named = [task.labels for task in tasks if task.labels]
    if len(named) == 1:
        path = bundle / "config.json"
        config = json.loads(path.read_bytes())
        config["id2label"] = {str(c): label for c, label in enumerate(named[0])}
        config["label2id"] = {label: c for c, label in enumerate(named[0])}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert_weights(bundle: Path, precision: Precision) -> None:
    """Have all weights of a bundle's folder in another precision; whole numbers stay."""
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
