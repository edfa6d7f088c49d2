"""Scores model soups: on dev-train to choose ingredients, on all of dev for the trial's record, and
on dev-dev for the held-out score."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ensemble.candidates.lineage import SOUP
from ensemble.soup.averaging import average_weights
from ensemble.statistics.bootstrap import Gain, gain_of_halves
from mlflow_setup.errors import DataError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.text import short_hash
from trainable.batches.tokenization import encode, load_tokenizer, tokenizer_fingerprint
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.tasks import Task
from trainable.data.dataset import read_dataset
from trainable.data.examples import Examples
from trainable.evaluation.evaluate import evaluate, outputs_of, predictions_of
from trainable.evaluation.metrics import overall, task_metric
from trainable.model.multitask import load_member
from trainable.model.weight_files import ENCODER_FILE, WEIGHTS_FILE, join_encoder, write_weights
from trainable.runtime.precision import choose_device, choose_precision
from trainable.storage.predictions import Predictions, dev_train_mask
from trainable.storage.trial_folder import TrialFolder

SOUPS = "soups"
"""The folder of a sweep's soups; separate from its trials, from which the search learns."""

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Ingredient:
    """The epoch of a run with the best overall score on dev-train."""

    trial: TrialFolder
    record: TrialRecord
    epoch: int
    dev_train: float

    @property
    def label(self) -> str:
        return f"{self.record.trial}@{self.epoch}"

    @property
    def weights(self) -> Path:
        return self.trial.require_weights(self.epoch)


@dataclass(frozen=True)
class HeldOut:
    """Scores on dev-dev, which was not used to choose."""

    soup: float
    single: float  # of the ingredient that is best on dev-train
    gain: Gain


class SoupScorer:
    """Averages weights and scores them on the dev examples of a data folder."""

    def __init__(self, first: Ingredient, data_dir: str | Path) -> None:
        self.first = first
        self.config: Config = from_flat({**first.record.config, "data.dir": str(data_dir)})
        dataset = read_dataset(self.config)
        self.tasks: dict[str, Task] = {name: dataset.tasks[name] for name in dataset.dev}
        self.examples: dict[str, Examples] = dataset.dev
        self.first_outputs = self._read(first.trial, first.epoch)  # checks the data before any work
        self.device = choose_device(self.config.train.device)
        self.precision = choose_precision(self.config.train.precision, self.device)
        tokenizer = load_tokenizer(first.trial.encoder_dir)
        model = load_member(first.weights, first.trial.encoder_dir, self.config)
        self.model = model.to(self.device)
        self.tokenizer_id = tokenizer_fingerprint(tokenizer, self.model.max_length)
        self.tokenizer = tokenizer

    def score_on_dev_train(self, ingredients: Sequence[Ingredient]) -> float:
        """Return the overall score of their soup on dev-train; no other rows are used."""
        rows = {
            name: examples.take(np.flatnonzero(dev_train_mask(examples.ids)))
            for name, examples in self.examples.items()
        }
        outputs = self._outputs(ingredients, rows)
        return overall(
            {name: self._score(name, outputs[name], rows[name]) for name in rows}, self.tasks
        )

    def record(
        self, sweep: str, kind: str, ingredients: Sequence[Ingredient], num_sharing: int
    ) -> TrialFolder:
        """Write the soup's trial folder, unless it exists, and return it.

        Args:
            kind: greedy or uniform.
            num_sharing: number of runs with the same initialisation, for the record.
        """
        labels = [each.label for each in ingredients]
        name = f"{SOUP}-{kind}-{short_hash(' '.join(labels), length=8)}"
        trial = TrialFolder(self.first.trial.path.parent.parent / SOUPS / name)
        if trial.outcome() is not None:
            return trial
        started = time.perf_counter()
        trial.keep_encoder(self._copy_encoder)
        notes = {**self.first.record.notes, "num_ingredients": len(ingredients)}
        trial.create(_record_of(self.first.record, name, sweep, notes))
        content = {
            "kind": kind,
            "ingredients": [
                {"trial": each.record.trial, "epoch": each.epoch, "dev_train": each.dev_train}
                for each in ingredients
            ],
            "num_sharing": num_sharing,
        }
        write_atomic(trial.path / "soup.json", json.dumps(content, indent=1))
        outputs = self._outputs(ingredients, self.examples)
        evaluation = evaluate(self.tasks, self.examples, outputs)
        if not evaluation.is_finite:
            raise NothingUsableError(f"{name}: its outputs on dev are not all finite")
        trial.write_predictions(
            1,
            [
                predictions_of(self.tasks[task], self.examples[task], values, self.tokenizer_id)
                for task, values in outputs.items()
            ],
        )
        averaged = _averaged(ingredients)
        trial.keep_weights(1, lambda folder: write_weights(averaged, folder))
        seconds, now = time.perf_counter() - started, time.time()
        trial.write_epoch(
            EpochRecord(1, evaluation.metrics, evaluation.dev_train, seconds, now, evaluation.flags)
        )
        reason = f"{kind} soup, chosen on dev-train, of {', '.join(labels)}"
        trial.write_outcome(OutcomeRecord(Outcome.FINISHED, reason, 1, now))
        return trial

    def judge(
        self, trial: TrialFolder, best: Ingredient
    ) -> tuple[dict[str, HeldOut], float, float]:
        """Score the soup and the best single ingredient on dev-dev.

        Returns:
            The scores of each task, the soup's overall score, and the single ingredient's.
        """
        soups = self._read(trial, 1)
        by_task = {}
        for name, examples in self.examples.items():
            rest = ~dev_train_mask(examples.ids)
            if not rest.any() or examples.labels is None:
                raise DataError(f"{name}: too few dev rows to score on a half of them")
            ours, single = (
                outputs[name][rest].astype(np.float64) for outputs in (soups, self.first_outputs)
            )
            task, labels = self.tasks[name], examples.labels
            (gain,) = gain_of_halves(task, [ours], [[single]], labels, [rest])
            of_soup, of_single = (task_metric(task, o, labels[rest])[0] for o in (ours, single))
            by_task[name] = HeldOut(of_soup, of_single, gain)
        return (
            by_task,
            overall({name: scores.soup for name, scores in by_task.items()}, self.tasks),
            overall({name: scores.single for name, scores in by_task.items()}, self.tasks),
        )

    def _copy_encoder(self, folder: Path) -> None:
        shutil.copytree(self.first.trial.encoder_dir, folder, dirs_exist_ok=True)

    def _outputs(
        self, ingredients: Sequence[Ingredient], rows: Mapping[str, Examples]
    ) -> dict[str, NDArray[np.float32]]:
        self.model.load_state_dict(_averaged(ingredients))
        size = self.config.train.eval_batch_size
        return {
            name: outputs_of(
                self.model,
                name,
                encode(examples, self.tokenizer, self.model.max_length),
                size,
                self.precision,
            )
            for name, examples in rows.items()
        }

    def _score(self, name: str, outputs: NDArray[np.float32], examples: Examples) -> float:
        assert examples.labels is not None
        return task_metric(self.tasks[name], outputs, examples.labels)[0]

    def _read(self, trial: TrialFolder, epoch: int) -> Outputs:
        """Return an epoch's recorded dev outputs, after checking that they are of these examples.

        Raises:
            DataError: they are of other dev examples.
            IntegrityError: their rows are in another order.
        """
        outputs, path = {}, trial.predictions_path(epoch)
        for name, examples in self.examples.items():
            predictions = Predictions.read(path, name)
            if predictions.data_fingerprint != examples.fingerprint:
                raise DataError(
                    f"{name}: the dev examples are not those that {trial.path.name} was scored on",
                    fix="name the data folder of the sweep: --data-dir DIR",
                )
            if predictions.ids != examples.ids:
                raise IntegrityError(f"{path}: its rows are not in the order of the dev examples")
            outputs[name] = predictions.outputs
        return outputs


def _averaged(ingredients: Sequence[Ingredient]) -> dict[str, Tensor]:
    folders = [each.weights for each in ingredients]
    others, encoder = (
        average_weights([folder / name for folder in folders])
        for name in (WEIGHTS_FILE, ENCODER_FILE)
    )
    return others | join_encoder(encoder)


def _record_of(first: TrialRecord, name: str, sweep: str, notes: dict[str, int]) -> TrialRecord:
    """Return the soup's record: the best ingredient's configuration, with no searched setting."""
    content = asdict(first) | {
        "trial": name,
        "sweep": sweep,
        "recipe": SOUP,
        "searched": (),
        "notes": notes,
        "start_time": time.time(),
    }
    return TrialRecord(**content)
