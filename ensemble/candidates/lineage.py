"""What a trial's training began from, told by its record: what may share an encoder or a soup."""

from typing import Any

from mlflow_setup.schema import TrialRecord
from trainable.config.config import Config
from trainable.config.parse import from_flat

SOUP = "soup"
"""Recipe of a trial that was averaged, not trained: its configuration is an ingredient's."""
_NOT_OF_THE_START = {"encoder_dropout", "head_dropout", "gradient_checkpointing", "lora"}


def encoder_of_start(record: TrialRecord, config: Config) -> dict[str, Any]:
    """The encoder before training: its name, its commit on the hub, its additional pre-training."""
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


def start_of(record: TrialRecord) -> dict[str, Any]:
    """All of it: trials that are equal in it may be averaged.

    The encoder, the shape of the model, the tasks, and the seed, which the heads are drawn with.
    """
    config = from_flat(record.config)
    return {
        **encoder_of_start(record, config),
        "model": config.model.model_dump(mode="json", exclude=_NOT_OF_THE_START),
        "distill heads": config.distill.enabled and config.distill.place == "head",
        "tasks": [(name, t.model_dump(mode="json")) for name, t in config.task_records().items()],
        "seed": config.seed,
    }
