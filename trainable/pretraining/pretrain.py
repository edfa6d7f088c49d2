"""Additional pre-training (section 4.2): masked language modelling on the tasks' own sentences.

The result is an ordinary encoder folder. The masked-LM model has no pooler: the start encoder's is
carried over unchanged. Trials that need the same encoder share one, found by a fingerprint of
text, start encoder and settings.
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
"""The folder of all encoders made here, below the shared one."""


def text_of(config: Config) -> list[str]:
    """The training sentences of `pretrain.tasks` as a trial of those tasks sees them.

    A sentence that is in several examples is there as often, unless `pretrain.repeats` is false.

    Raises:
        DataError: as `read_dataset`.
    """
    data = config.data.model_copy(update={"tasks": config.pretrain.tasks})
    dataset = read_dataset(config.model_copy(update={"data": data}))
    sides = (side for examples in dataset.train.values() for side in examples.sentences)
    sentences = [sentence for side in sides for sentence in side]
    return sentences if config.pretrain.repeats else list(dict.fromkeys(sentences))


def pretrained_encoder(config: Config, shared: Path, stop: Stop = never_stop) -> Path:
    """The encoder's folder below `shared`, trained first unless it is there.

    One process trains it; the others wait for it.

    Raises:
        StopRequested: before it was there.
        ConfigError: the encoder cannot be loaded, or its tokenizer has no mask token.
        DataError: the text has errors.
        NothingUsableError: it diverged.
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
    """16 hex characters over the text, the start encoder's weights and tokenizer, the settings."""
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
    """Train and write an encoder folder to `output`, or go on with it after a stop.

    Args:
        sentences: the text; that of `config` unless given.
        head_only: train the masked-LM head alone, for comparison.
        report: called with the loss on held-out sentences at the start and after each epoch.
        stop: asked before each step; True checkpoints and returns.
        mask: of the folder; see `mlflow_setup.filesystem.modes`.

    Raises:
        ConfigError: `output` is there already, or was begun with other settings or text; the
            encoder cannot be loaded.
        DataError: the text has errors.
        NothingUsableError: it diverged.
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
    """The place itself, an empty folder there removed, for a new one to be put there."""
    place = output.resolve()
    if place.is_dir():
        place.rmdir()
    return place
