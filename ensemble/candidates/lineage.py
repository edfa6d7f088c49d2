"""The initialisation of a trial, from its record: decides which trials may share an encoder or a
model soup."""

from typing import Any

from mlflow_setup.schema import TrialRecord
from trainable.config.config import Config
from trainable.config.parse import from_flat

SOUP = "soup"
"""The recipe name of a trial whose weights were averaged, not trained; its configuration is that
of an ingredient."""
_TRAINING_ONLY = {"encoder_dropout", "head_dropout", "gradient_checkpointing", "lora"}
"""Settings of the model that do not change its initialisation."""


def initial_encoder(record: TrialRecord, config: Config) -> dict[str, Any]:
    """Return what identifies the encoder before training: its name, its commit on the hub and its
    additional pre-training."""
    facts: dict[str, Any] = {
        "encoder": config.model.encoder,
        "revision": config.model.revision,
        "revision found": record.encoder_revision,
        "pretrain": config.pretrain.enabled,
    }
    if config.pretrain.enabled:
        facts["pretrain"] = [
            config.pretrain.model_dump(mode="json"),
            config.model.encoder_dropout,
            config.train.precision,
            record.data_fingerprint,
        ]
    return facts


def initialisation_of(record: TrialRecord) -> dict[str, Any]:
    """Return what identifies a trial's initialisation; the weights of trials with equal
    initialisations may be averaged.

    It is the encoder, the architecture, the tasks, and the seed with which heads are initialised.
    """
    config = from_flat(record.config)
    return {
        **initial_encoder(record, config),
        "model": config.model.model_dump(mode="json", exclude=_TRAINING_ONLY),
        "distill heads": config.distill.enabled and config.distill.place == "head",
        "tasks": [(name, t.model_dump(mode="json")) for name, t in config.task_records().items()],
        "seed": config.seed,
    }
