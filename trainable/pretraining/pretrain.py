"""Additional pre-training (section 4.2): masked language modelling on the tasks' own sentences.

The result is an ordinary encoder folder. The masked-LM model has no pooler; the start encoder's is
copied unchanged. Trials share an encoder if the hash of text, start encoder and settings is the
same.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mlflow_setup.filesystem.atomic import atomic_folder, remove_folder
from mlflow_setup.filesystem.manifest import find_damage, write_manifest
from mlflow_setup.filesystem.modes import OWNERS
from mlflow_setup.filesystem.output import check_folder
from mlflow_setup.text import short_hash
from trainable.batches.tokenization import load_tokenizer, tokenizer_fingerprint
from trainable.config.config import Config
from trainable.data.dataset import read_dataset
from trainable.model.encoder import load_pretrained
from trainable.model.weight_files import weights_fingerprint
from trainable.pretraining.masked_lm import MaskedLMTraining, Progress, ignore
from trainable.runtime.precision import choose_device
from trainable.runtime.stopping import Stop, StopRequested, exclusive, never_stop

_logger = logging.getLogger(__name__)

ENCODERS = "encoders"
"""The folder of pre-trained encoders in the shared folder."""


def text_of(config: Config) -> list[str]:
    """The training sentences of `pretrain.tasks`, after the limits of the section `data`.

    A sentence of several examples occurs as often, unless `pretrain.repeats` is false.

    Raises:
        DataError: as `read_dataset`.
    """
    data = config.data.model_copy(update={"tasks": config.pretrain.tasks})
    dataset = read_dataset(config.model_copy(update={"data": data}))
    sides = (side for examples in dataset.train.values() for side in examples.sentences)
    sentences = [sentence for side in sides for sentence in side]
    return sentences if config.pretrain.repeats else list(dict.fromkeys(sentences))


def pretrained_encoder(config: Config, shared: Path, stop: Stop = never_stop) -> Path:
    """The folder of the pre-trained encoder in `shared`; it is trained first if it is missing.

    One process trains it while the others wait.

    Raises:
        StopRequested: `stop` returned True before it was finished.
        ConfigError: the encoder cannot be loaded, or its tokenizer has no mask token.
        DataError: the data has errors.
        NothingUsableError: training diverged.
    """
    sentences = text_of(config)
    name = fingerprint(config, sentences)
    folder = shared / ENCODERS / name
    with exclusive(folder, stop):
        damage = find_damage(folder, {"fingerprint": name}) if folder.exists() else "missing"
        if damage is None:
            return folder
        if folder.exists():
            _logger.warning("%s is trained again: %s", folder, damage)
            remove_folder(folder)
        if not pretrain(config, folder, sentences=sentences, stop=stop).is_done:
            raise StopRequested("during pre-training")
    return folder


def fingerprint(config: Config, sentences: list[str]) -> str:
    """A hash of the text, the start encoder's weights and tokenizer, and the settings."""
    model, settings = config.model, config.pretrain
    encoder = load_pretrained(model.encoder, model.revision, 0.0, "cls")
    tokenizer = load_tokenizer(model.encoder, model.revision)
    facts = {
        "encoder": weights_fingerprint(encoder.state_dict()),
        "tokenizer": tokenizer_fingerprint(tokenizer, settings.max_length),
        "settings": settings.model_dump(mode="json", exclude={"enabled", "tasks", "repeats"}),
        "dropout": model.encoder_dropout,
        "precision": config.train.precision,
    }
    return short_hash(json.dumps(facts, sort_keys=True), json.dumps(sentences))


def pretrain(
    config: Config,
    output: Path,
    *,
    sentences: list[str] | None = None,
    head_only: bool = False,
    report: Callable[[Progress], None] = ignore,
    stop: Stop = never_stop,
    mask: int = OWNERS,
) -> Progress:
    """Train and write an encoder folder to `output`, or resume a run that was stopped.

    Args:
        sentences: the text; default: `text_of(config)`.
        head_only: train only the masked-LM head, for comparison.
        report: called with the loss on held-out sentences at the start and after each epoch.
        stop: called before each step; if it returns True, a checkpoint is saved and the call ends.
        mask: umask of the folder; see `mlflow_setup.filesystem.modes`.

    Raises:
        ConfigError: `output` already exists, or its checkpoints have other settings or text, or
            the encoder cannot be loaded.
        DataError: the data has errors.
        NothingUsableError: training diverged.
    """
    check_folder(output)
    choose_device(config.train.device)
    text = text_of(config) if sentences is None else sentences
    name, checkpoints = fingerprint(config, text), output.with_name(f"{output.name}.partial")
    training = MaskedLMTraining(config, text, checkpoints, head_only, name)
    done = training.run(report, stop)
    if done.is_done:
        with atomic_folder(_vacant(output), mask) as folder:
            training.write_encoder(folder)
            (folder / "pretrain.json").write_text(json.dumps(asdict(done), indent=1) + "\n")
            write_manifest(folder, {"fingerprint": name})
        remove_folder(checkpoints)
    return done


def _vacant(output: Path) -> Path:
    """The resolved path, without the empty folder that may be there."""
    path = output.resolve()
    if path.is_dir():
        path.rmdir()
    return path
