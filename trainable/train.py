"""The training loop of one trial. It knows neither Ray nor MLflow: reporting is a callable.

State is the trial's folder. Stopped anywhere and called again, it goes on from the newest valid
checkpoint and ends with the numbers of an uninterrupted run.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mlflow_setup.schema import (
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
    metric_name,
)
from trainable.batching import Step, plan_epoch
from trainable.checkpoint import load_newest, save_checkpoint
from trainable.config import Config
from trainable.dataset import Dataset, read_dataset
from trainable.evaluate import evaluate, outputs_of, predictions_of
from trainable.model import WEIGHTS_FILE, build_model, choose_device, choose_precision
from trainable.objective import has_second_view, objective
from trainable.optim import build_optimizer, learning_rate
from trainable.record import TrialFolder, epochs_to_keep
from trainable.rng_state import rng_state, seed_globals, set_rng_state
from trainable.seeding import generator
from trainable.tokens import encode, load_tokenizer, tokenizer_fingerprint

CHECK_EVERY = 20
"""Steps between looks at the running loss: looking at each would stall a GPU."""


@dataclass(frozen=True)
class Identity:
    """What a trial is called and where its configuration came from."""

    trial: str
    sweep: str | None
    recipe: str
    origin: dict[str, str]
    searched: tuple[str, ...] = ()


def ignore(record: EpochRecord) -> None:
    """The report of a trial that nobody watches."""


def never() -> bool:
    """The stop of a trial that runs to its end."""
    return False


def train(
    config: Config,
    folder: Path,
    *,
    identity: Identity,
    report: Callable[[EpochRecord], None] = ignore,
    stop: Callable[[], bool] = never,
    dataset: Dataset | None = None,
) -> OutcomeRecord:
    """Train one trial in `folder`, or go on with it; a trial that has ended is left as it is.

    Args:
        report: called after each epoch, once everything of the epoch is on disk.
        stop: asked before each step; True checkpoints and ends the call as `stopped`.
        dataset: the data, where the caller has read it already.

    Raises:
        ConfigError: the folder holds another trial, or the encoder cannot be loaded.
        DataError: the data has errors and `data.on_bad_rows` is `error`.
    """
    trial = TrialFolder(folder)
    ended = trial.outcome()
    if ended is not None and ended.outcome.is_terminal:
        return ended
    trainer = Trainer(config, trial, dataset or read_dataset(config), identity)
    outcome, reason = trainer.run(report, stop)
    record = OutcomeRecord(outcome, reason, trainer.epochs_completed, time.time())
    trial.write_outcome(record)
    return record


class Trainer:
    """A trial in memory: model, optimizer, tokens, and how far it has come."""

    def __init__(
        self, config: Config, trial: TrialFolder, dataset: Dataset, identity: Identity
    ) -> None:
        self.config, self.trial, self.dataset = config, trial, dataset
        self.tasks = dataset.tasks
        self.device = choose_device(config.train.device)
        self.precision = choose_precision(config.train.precision, self.device)
        seed_globals(config.seed)
        self.model = build_model(config).to(self.device).train()
        self.optimizer = build_optimizer(self.model, config.optim)
        self._encode()
        self._enter_folder(identity)
        self.epochs_completed = 0
        self.steps_done = 0  # of the epoch under way
        self.loss_sums = {name: torch.zeros(2, device=self.device) for name in self.tasks}
        self._restore()

    def run(
        self, report: Callable[[EpochRecord], None], stop: Callable[[], bool]
    ) -> tuple[Outcome, str]:
        """Epoch after epoch, to the end, a divergence or a stop."""
        while self.epochs_completed < self.config.train.num_epochs:
            started = time.perf_counter()
            ended = self._train_epoch(stop) or self._finish_epoch(started)
            if ended is not None:
                return ended
            report(self.trial.epochs()[-1])
        return Outcome.FINISHED, f"ran {self.epochs_completed} epochs"

    def _train_epoch(self, stop: Callable[[], bool]) -> tuple[Outcome, str] | None:
        epoch = self.epochs_completed + 1
        config = self.config
        rate = learning_rate(config.optim, epoch, config.train.num_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        lengths = {name: encoded.lengths for name, encoded in self.train_tokens.items()}
        plan = plan_epoch(
            lengths, config.batching.strategy, config.batching.batch_size, config.seed, epoch
        )
        for number in range(self.steps_done, len(plan)):
            if stop():
                self._save()
                return Outcome.STOPPED, f"asked to stop in epoch {epoch} before step {number + 1}"
            self.step(plan[number], epoch, number)
            is_last = number + 1 == len(plan)
            if (number + 1) % CHECK_EVERY == 0 or is_last:
                diverged = self._diverged()
                if diverged:
                    return Outcome.DIVERGED, f"{diverged} in epoch {epoch}, step {number + 1}"
        return None

    def step(self, step: Step, epoch: int, number: int) -> None:
        """Forward, loss, backward, update: the whole of one optimisation step."""
        name, encoded = step.task_name, self.train_tokens[step.task_name]
        rows = encoded.sentences(step.rows)  # [sides * B]
        view_of = None
        if has_second_view(name, self.config.loss):
            draw = generator(self.config.seed, "views", epoch, number).integers(
                encoded.num_sides, size=len(step.rows)
            )
            view_of = torch.from_numpy(draw).to(self.device)
            sides = rows.reshape(encoded.num_sides, -1)
            rows = rows.tolist() + sides[draw, range(len(draw))].tolist()
        input_ids, mask = encoded.tokens.pad(rows)
        num_sides = len(input_ids) // len(step.rows)
        labels = None if encoded.labels is None else encoded.labels[step.rows].to(self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16
        ):
            output = self.model(name, input_ids.to(self.device), mask.to(self.device), num_sides)
        loss = objective(name, self.tasks[name], output, labels, view_of, self.config.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_sums[name] += torch.stack([loss.detach(), torch.ones_like(loss)])
        self.steps_done = number + 1

    def _diverged(self) -> str | None:
        for name, (total, _) in self.loss_sums.items():
            if not torch.isfinite(total):
                return f"the loss of {name} is {float(total)}"
        return None

    def _finish_epoch(self, started: float) -> tuple[Outcome, str] | None:
        """Evaluate, then put the epoch on disk: predictions, weights, record, checkpoint."""
        epoch = self.epochs_completed + 1
        outputs = {
            name: outputs_of(
                self.model, name, encoded, self.config.train.eval_batch_size, self.precision
            )
            for name, encoded in self.dev_tokens.items()
        }
        evaluation = evaluate(self.tasks, self.dataset.dev, outputs)
        if not evaluation.is_finite:
            return Outcome.DIVERGED, f"an output on dev is not finite after epoch {epoch}"
        for name, values in outputs.items():
            self.trial.write_predictions(
                epoch,
                predictions_of(self.tasks[name], self.dataset.dev[name], values, self.tokenizer_id),
            )
        losses = {
            metric_name("train", name, "loss"): float(total / count)
            for name, (total, count) in self.loss_sums.items()
        }
        record = EpochRecord(
            epoch=epoch,
            metrics={**evaluation.metrics, **losses},
            dev_train=evaluation.dev_train,
            seconds=time.perf_counter() - started,
            wall_time=time.time(),
            flags=evaluation.flags,
        )
        keep = epochs_to_keep([*self.trial.epochs(), record], self.tasks)
        if epoch in keep:
            self.trial.keep_weights(epoch, self._write_weights)
        self.trial.write_epoch(record)
        self.epochs_completed, self.steps_done = epoch, 0
        self.loss_sums = {name: torch.zeros_like(sums) for name, sums in self.loss_sums.items()}
        self._save()
        for kept in set(self.trial.kept_epochs()) - keep:  # only once nothing can need them again
            self.trial.drop_weights(kept)
        return None

    def _write_weights(self, folder: Path) -> None:
        state = {name: value.contiguous().cpu() for name, value in self.model.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)

    def _encode(self) -> None:
        """Tokenise everything once."""
        settings, max_length = self.config.model, self.model.max_length
        tokenizer = load_tokenizer(settings.encoder, settings.revision)
        self.tokenizer = tokenizer
        self.tokenizer_id = tokenizer_fingerprint(tokenizer, max_length)
        self.train_tokens = {
            name: encode(examples, tokenizer, max_length)
            for name, examples in self.dataset.train.items()
        }
        self.dev_tokens = {
            name: encode(examples, tokenizer, max_length)
            for name, examples in self.dataset.dev.items()
        }

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
                    "num_parameters": self.model.num_parameters,
                    **{f"skipped rows: {what}": n for what, n in self.dataset.skipped.items()},
                },
            )
        )

    def _write_encoder(self, folder: Path) -> None:
        self.model.encoder.config.save_pretrained(folder)  # type: ignore[union-attr,operator]
        self.tokenizer.save_pretrained(folder)

    def _save(self) -> None:
        step = sum(len(tokens.lengths) for tokens in self.train_tokens.values())
        step = self.epochs_completed * step + self.steps_done
        save_checkpoint(
            self.trial.checkpoint_dir,
            step,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epochs_completed": self.epochs_completed,
                "steps_done": self.steps_done,
                "loss_sums": self.loss_sums,
                "rng": rng_state(),
            },
        )

    def _restore(self) -> None:
        """Back to the newest valid checkpoint; what was recorded after it is run again."""
        found = load_newest(self.trial.checkpoint_dir)
        if found is not None:
            state: dict[str, Any] = found[1]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epochs_completed, self.steps_done = state["epochs_completed"], state["steps_done"]
            self.loss_sums = {k: v.to(self.device) for k, v in state["loss_sums"].items()}
            set_rng_state(state["rng"])
        self.trial.forget_after(self.epochs_completed)


def git_revision() -> str | None:
    """The commit of the working folder with `-dirty` where it has changes, or None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
