"""The training loop of a trial. Each epoch is on disk before the next begins.

Uploads of an epoch to an object store run while the next one trains, one epoch at a time; an epoch
is reported once its upload is complete.

All state is in the trial's folder: a new trainer resumes from the newest valid checkpoint and gets
the same results as an uninterrupted run.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.schema import (
    EpochRecord,
    Identity,
    Outcome,
    TrialRecord,
    best_epoch,
    metric_name,
)
from mlflow_setup.text import counted
from trainable.batches.sampler import plan_epoch
from trainable.config.config import Config
from trainable.data.dataset import Dataset
from trainable.evaluation.evaluate import evaluate, predictions_of
from trainable.model.encoder import hub_revision
from trainable.model.lora import plain_weights
from trainable.model.weight_files import write_weights
from trainable.runtime.progress import Tally
from trainable.runtime.rng_state import rng_state, set_rng_state
from trainable.runtime.stopping import Stop
from trainable.storage.checkpoint import load_newest, save_checkpoint
from trainable.storage.layout import ENCODERS
from trainable.storage.retention import epochs_to_keep
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner
from trainable.training.learner_state import can_load, load_state, state_of
from trainable.training.stages import stage_at, total_epochs

CHECK_EVERY = 20
"""Steps between checks that the loss is finite; checking each step would stall a GPU."""


class Trainer:
    """A trial in training: its learner, its folder and its progress."""

    def __init__(
        self,
        config: Config,
        trial: TrialFolder,
        dataset: Dataset,
        learner: Learner,
        identity: Identity,
        stop: Stop,
        shared: Path,
    ) -> None:
        self.config, self.trial, self.dataset, self.learner = config, trial, dataset, learner
        self.tasks, self.stop, self.shared = dataset.tasks, stop, shared
        self.storage = storage_of(trial.path)
        self._started = time.perf_counter()  # of the current epoch, shifted by waits for uploads
        self._unreported: EpochRecord | None = None
        self._enter_folder(identity)
        self.epochs_completed = 0
        self.steps_done = 0  # in the current epoch
        self.loss_sums = {name: torch.zeros(2, device=learner.device) for name in self.tasks}
        self._restore()

    def run(self, report: Callable[[EpochRecord], None]) -> tuple[Outcome, str]:
        """Train until the last epoch, a divergence or a stop; return the outcome and its reason.

        Args:
            report: called with each epoch once it is in the storage; the next may have begun.
        """
        self._report = report
        ended = self._run()
        self._report_epoch()
        return ended

    def _run(self) -> tuple[Outcome, str]:
        while self.epochs_completed < total_epochs(self.config):
            reason = self._early_stop_reason()
            if reason is not None:
                return Outcome.FINISHED, reason
            self._started = time.perf_counter()
            stage = stage_at(self.config, self.epochs_completed + 1)
            if stage != self.learner.stage:
                self.learner.enter(stage, self.stop)
            if stage.name == "fit":
                self.learner.fit(self.stop)
            ended = (stage.name != "fit" and self._train_epoch()) or self._finish_epoch()
            if ended is not None:
                return ended
            self._report_if_uploaded()
        return Outcome.FINISHED, f"ran {counted(self.epochs_completed, 'epoch')}"

    def _early_stop_reason(self) -> str | None:
        """Why early stopping ends the trial now; None: it does not."""
        patience, stage = self.config.train.early_stopping_epochs, self.learner.stage
        past = self.trial.epochs()[stage.first_epoch - 1 : self.epochs_completed]
        if patience is None or stage.name != "finetune" or not past:
            return None
        best = best_epoch(past)
        if self.epochs_completed - best.epoch < patience:
            return None
        return f"no better overall in {patience} epochs after epoch {best.epoch}"

    def _train_epoch(self) -> tuple[Outcome, str] | None:
        epoch, learner = self.epochs_completed + 1, self.learner
        lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
        progress = learner.stage.progress(epoch)
        plan = plan_epoch(lengths, self.config.batching, self.config.seed, epoch, progress)
        batches = learner.batches(plan, epoch, self.steps_done)
        what = f"epoch {epoch}/{total_epochs(self.config)}"
        tally = Tally(what, len(plan), self.steps_done)
        for number, batch in enumerate(batches, self.steps_done):
            if self.stop():
                self._save()
                return Outcome.STOPPED, f"asked to stop in epoch {epoch} before step {number + 1}"
            loss = learner.step(batch, epoch, number)
            self.loss_sums[batch.task_name] += torch.stack([loss, torch.ones_like(loss)])
            self.steps_done = number + 1
            tally.add(1, len(plan[number].rows), self._mean_loss)
            if self.steps_done % CHECK_EVERY == 0 or self.steps_done == len(plan):
                problem = self._loss_problem()
                if problem:
                    return Outcome.DIVERGED, f"{problem} in epoch {epoch}, step {number + 1}"
            self._report_if_uploaded()
        return None

    def _report_if_uploaded(self) -> None:
        if self._unreported is not None and self.storage.is_settled(self.trial.path):
            self._report_epoch()

    def _report_epoch(self) -> None:
        """Wait until the last epoch is uploaded, then report it."""
        began = time.perf_counter()
        self.storage.settle(self.trial.path)
        record, self._unreported = self._unreported, None
        if record is not None:
            self._report(record)
        self._started += time.perf_counter() - began  # not counted as time of the current epoch

    def _mean_loss(self) -> float:
        """Mean loss over all steps of the epoch so far."""
        total, count = sum(self.loss_sums.values())  # type: ignore[misc]
        return float(total / count)

    def _loss_problem(self) -> str | None:
        for name, (total, _) in self.loss_sums.items():
            if not torch.isfinite(total):
                return f"the loss of {name} is {float(total)}"
        return None

    def _finish_epoch(self) -> tuple[Outcome, str] | None:
        """Evaluate the epoch and write its predictions, weights, record and checkpoint; return an
        outcome if it diverged."""
        epoch, stage = self.epochs_completed + 1, self.learner.stage
        self.learner.end_epoch()
        outputs = self.learner.dev_outputs()
        evaluation = evaluate(self.tasks, self.dataset.dev, outputs)
        if not evaluation.is_finite:
            return Outcome.DIVERGED, f"an output on dev is not finite after epoch {epoch}"
        tokenizer = self.learner.tokenizer_id
        self._report_epoch()  # the previous one: at most one epoch waits for its upload
        self.trial.write_predictions(
            epoch,
            [
                predictions_of(self.tasks[name], self.dataset.dev[name], values, tokenizer)
                for name, values in outputs.items()
            ],
        )
        losses = {
            metric_name("train", name, "loss"): float(total / count)
            for name, (total, count) in self.loss_sums.items()
            if count  # the sampler may not have chosen the task
        }
        record = EpochRecord(
            epoch=epoch,
            metrics={**evaluation.metrics, **losses},
            dev_train=evaluation.dev_train,
            seconds=time.perf_counter() - self._started,
            wall_time=time.time(),
            flags=(*evaluation.flags, *self.learner.notes),
            starts_average=stage.name == "swa" and epoch == stage.first_epoch,
            ms_per_sentence=self.learner.ms_per_sentence,
        )
        records = [*self.trial.epochs(), record]
        keep = epochs_to_keep(records, self.tasks, stage.first_epoch)
        if epoch in keep:
            self.trial.keep_weights(epoch, self._write_weights)
        self.trial.write_epoch(record)
        self.epochs_completed, self.steps_done = epoch, 0
        self.learner.notes.clear()
        self.loss_sums = {name: torch.zeros_like(sums) for name, sums in self.loss_sums.items()}
        ends_stage = epoch == stage.last_epoch < total_epochs(self.config)
        if ends_stage and self.config.train.continue_from == "best":
            best = best_epoch(records[stage.first_epoch - 1 :]).epoch
            self.learner.load_weights(self.trial.fetch_weights(best))
        self._save()
        for kept in set(self.trial.kept_epochs()) - keep:  # only after the checkpoint
            self.trial.drop_weights(kept)
        self._unreported = record
        return None

    def _write_weights(self, folder: Path) -> None:
        """Write the weights; a frozen encoder is linked to the file that all trials share."""
        kept = [self.trial.weights_dir(epoch) for epoch in reversed(self.trial.kept_epochs())]
        is_shared = self.learner.stage.is_frozen and not storage_of(self.shared).is_remote
        shared = self.shared / ENCODERS if is_shared else None
        write_weights(plain_weights(self.learner.scored_model), folder, kept, shared)

    def _enter_folder(self, identity: Identity) -> None:
        if not self.trial.encoder_dir.exists():
            self.trial.keep_encoder(self._write_encoder)
        self.trial.create(
            TrialRecord(
                trial=identity.trial,
                sweep=identity.sweep,
                recipe=identity.recipe,
                config=self.config.flat(),
                origin=identity.origin,
                seed=self.config.seed,
                data_fingerprint=self.dataset.fingerprint,
                git_revision=git_revision(),
                start_time=time.time(),
                searched=identity.searched,
                notes={
                    "num_parameters": self.learner.model.num_parameters,
                    "num_encoder_parameters": self.learner.model.num_encoder_parameters,
                    **{f"skipped rows: {what}": n for what, n in self.dataset.skipped.items()},
                },
                encoder_revision=hub_revision(self.learner.model.encoder),
            )
        )

    def _write_encoder(self, folder: Path) -> None:
        self.learner.model.encoder.config.save_pretrained(folder)  # type: ignore[union-attr,operator]
        self.learner.tokenizer.save_pretrained(folder)

    def _save(self) -> None:
        save_checkpoint(
            self.trial.checkpoint_dir,
            self.epochs_completed * self.learner.num_steps + self.steps_done,
            {
                "learner": state_of(self.learner),
                "epochs_completed": self.epochs_completed,
                "steps_done": self.steps_done,
                "loss_sums": self.loss_sums,
                "rng": rng_state(),
            },
        )

    def _restore(self) -> None:
        """Restore the newest valid checkpoint, and delete records of later epochs.

        A checkpoint is not valid if the record of one of its epochs is missing or damaged, or if it
        was trained on another encoder.
        """
        num_recorded = len(self.trial.epochs())
        newest = load_newest(
            self.trial.checkpoint_dir,
            lambda state: (
                state["epochs_completed"] <= num_recorded
                and can_load(self.learner, state["learner"])
            ),
        )
        state: dict[str, Any] = {} if newest is None else newest[1]
        self.epochs_completed = state.get("epochs_completed", 0)
        next_epoch = min(self.epochs_completed + 1, total_epochs(self.config))
        self.learner.enter(stage_at(self.config, next_epoch), self.stop)
        if state:
            load_state(self.learner, state["learner"])
            self.steps_done = state["steps_done"]
            device = self.learner.device
            self.loss_sums = {k: v.to(device) for k, v in state["loss_sums"].items()}
            set_rng_state(state["rng"])
        self.trial.forget_after(self.epochs_completed)


def git_revision() -> str | None:
    """The commit of the working folder, with `-dirty` if it has changes; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
