"""Students with teachers, and the soft labels that they should get."""

from pathlib import Path

import numpy as np
import torch

from mlflow_setup.schema import OVERALL
from trainable.batches.tokenization import load_tokenizer
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.distillation.soft_labels import read_soft_labels, soft_labels_dir
from trainable.evaluation.evaluate import predict
from trainable.model.multitask import load_member
from trainable.storage.trial_folder import TrialFolder


def config_of(encoder: Path, data: Path, *overrides: str) -> Config:
    base = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "model.fcn_size=8", "optim.lr=1e-3"),
        *("train.num_epochs=1", "pretrain.enabled=false", "train.precision=fp32"),
        "distill.enabled=true",
    ]
    return resolve("b3", [*base, *overrides], {}).config


def labels_of(config: Config, shared: Path) -> tuple[Dataset, dict[str, torch.Tensor]]:
    dataset = read_dataset(config)
    return dataset, read_soft_labels(soft_labels_dir(config, dataset, shared), dataset)


def best_outputs(folder: Path, dataset: Dataset, name: str) -> np.ndarray:
    """A trial's outputs at its best overall epoch, computed sentence by sentence."""
    trial = TrialFolder(folder)
    best = max(trial.epochs(), key=lambda record: (record.metrics[OVERALL], -record.epoch))
    config = from_flat(trial.trial().config)
    model = load_member(trial.weights_dir(best.epoch), trial.encoder_dir, config)
    examples = dataset.train[name]
    return predict(model, name, examples.sentences, load_tokenizer(trial.encoder_dir))


def teachers_in(shared: Path) -> list[Path]:
    return sorted(path.parent for path in (shared / "teachers").glob("*/config.json"))
