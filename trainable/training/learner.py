"""The model in training, with its optimizer and tokens: single steps and evaluations.

It does not read or write the trial's folder; `trainable.training.trainer` does.

Legend: N examples, C classes or labels.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from trainable.batches.collate import Batch, collate
from trainable.batches.prefetch import prefetch
from trainable.batches.sampler import Step
from trainable.batches.tokenization import encode, load_tokenizer, tokenizer_fingerprint
from trainable.config.config import Config
from trainable.data.dataset import Dataset
from trainable.evaluation.embedding_cache import sentence_embeddings
from trainable.evaluation.evaluate import outputs_of
from trainable.losses.objective import Objective
from trainable.model.architectures import require_vocabulary
from trainable.model.compilation import can_compile, compile_if_faster, compile_layers
from trainable.model.heads import HeadOutput
from trainable.model.lora import load_plain_weights
from trainable.model.multitask import MultitaskBert, build_model
from trainable.model.weight_files import read_weights, weights_fingerprint
from trainable.runtime.precision import (
    autocast,
    choose_device,
    choose_precision,
    training_bytes,
)
from trainable.runtime.rng_state import dropout_state, replayed, set_dropout_state
from trainable.runtime.stopping import Stop, never_stop, raise_if_stopped
from trainable.training.closed_form import fit_head
from trainable.training.interpolation import Interpolation
from trainable.training.optimizer import build_optimizer, set_rate
from trainable.training.stages import Stage, stages_of

_NUM_PREFETCHED = 2
"""Batches that are prepared and copied to the GPU while it works."""


class Learner:
    """A trial's model in training, in one stage at a time."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        encoder: str | None = None,
        soft_labels: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.tasks = config, dataset.tasks
        self.soft_labels = soft_labels or {}
        model = build_model(config, encoder)
        is_frozen = any(stage.is_frozen for stage in stages_of(config))
        self.encoder_id = weights_fingerprint(model.encoder.state_dict()) if is_frozen else None
        """Fingerprint of the trial's initial encoder; None if no stage has a frozen encoder."""
        self.device = choose_device(config.train.device, training_bytes(model))
        self.precision = choose_precision(config.train.precision, self.device)
        self.model = model.to(self.device).train()
        self.average: AveragedModel | None = None
        self.interpolation: Interpolation | None = None
        self.notes: list[str] = []
        """Remarks for the record of the current epoch."""
        self.ms_per_sentence: float | None = None
        """Inference time in the last evaluation; None: its embeddings were cached."""
        self.objective = Objective(config)
        self._encode(dataset)

    def enter(self, stage: Stage, stop: Stop = never_stop) -> None:
        """Begin a stage: set what is trainable, create the optimizer, and prepare the stage's
        embeddings, average or interpolation.

        Raises:
            StopRequested: `stop` returned True while embeddings were computed.
        """
        self.stage = stage
        self.model.freeze_encoder(stage.is_frozen)
        self.optimizer = build_optimizer(self.model, self.config.optim)
        self.scaler = GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.average = AveragedModel(self.model) if stage.name == "swa" else None
        share = self.config.train.finetuned_share
        is_interpolated = stage.name == "finetune" and share < 1
        self.interpolation = Interpolation(self.model, share) if is_interpolated else None
        self.embeddings: dict[str, dict[str, Tensor]] = {"train": {}, "dev": {}}
        if stage.name == "fit" or (stage.is_frozen and self.config.probe.cache):
            encoder_id = weights_fingerprint(self.model.encoder.state_dict())
            settings = (self.config.train.eval_batch_size, self.precision)
            for split, tokens in (("train", self.train_tokens), ("dev", self.dev_tokens)):
                for name, encoded in tokens.items():
                    embedded = sentence_embeddings(self.model, encoder_id, encoded, *settings, stop)
                    self.embeddings[split][name] = embedded
        elif can_compile(self.model.encoder, self.device, self.config.train.compile):
            self._compile(stop)

    @property
    def num_steps(self) -> int:
        """Number of steps per epoch."""
        size = self.config.batching.batch_size
        return sum(-(-tokens.num_examples // size) for tokens in self.train_tokens.values())

    @property
    def scored_model(self) -> MultitaskBert:
        """The model that is evaluated and kept: the interpolation or average if there is one, else
        the trained model."""
        if self.interpolation is not None:
            return self.interpolation.model
        if self.average is None or not int(self.average.n_averaged):
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, MultitaskBert)
        return averaged

    def batches(self, plan: Sequence[Step], epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch's plan from step `first` on; prefetched if there is a GPU."""

        def make(number: int) -> Batch:
            step, config = plan[number], self.config
            return collate(
                step,
                self.train_tokens[step.task_name],
                self.soft_labels.get(step.task_name),
                config.loss,
                (config.seed, epoch, number),
                self.embeddings["train"].get(step.task_name),
            ).to(self.device)

        depth = _NUM_PREFETCHED if self.device.type == "cuda" else 0
        return prefetch(make, range(first, len(plan)), depth)

    def step(self, batch: Batch, epoch: int, number: int) -> Tensor:
        """Do one optimizer step; return its loss, a scalar on the device.

        If the forward or backward pass runs out of memory, the step is repeated with half the
        micro-batch size and the same dropout masks. In the optimizer's update this would not help.

        Args:
            number: of the step in the epoch, from 0.
        """
        rng_state = dropout_state(self.device)
        while True:
            try:
                return self._step(batch, epoch, number)
            except torch.OutOfMemoryError:
                where = f"epoch {epoch}, step {number + 1}"
                if self._is_updating or not self._halve_micro_batch(len(batch.sentences), where):
                    raise
            # outside the except block, where the memory of the failed pass is free again
            self.optimizer.zero_grad(set_to_none=True)
            set_dropout_state(rng_state, self.device)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar; autocast covers the forward pass, not the loss."""
        with autocast(self.device, self._precision_of(batch)):
            output: HeadOutput = self.model(batch)
        return self.objective(batch, output, self.model)

    def _step(self, batch: Batch, epoch: int, number: int) -> Tensor:
        self._is_updating = False
        loss = self.loss(batch)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._is_updating = True
        if self.config.optim.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        self._set_rate(epoch, number)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _precision_of(self, batch: Batch) -> torch.dtype:
        """The precision for a batch: float32 with SMART, whose small differences half precision
        would round away."""
        has_smart = self.objective.has_smart(batch.task_name, self.model)
        return torch.float32 if has_smart else self.precision

    def _halve_micro_batch(self, num_sentences: int, where: str) -> bool:
        """Halve the micro-batch size, after a batch of `num_sentences` did not fit; False if it is
        1 already."""
        size = min(self.model.micro_batch_size or num_sentences, num_sentences)
        if size == 1:
            return False
        self.model.micro_batch_size = size // 2
        self.notes.append(
            f"out of memory in {where}: the encoder now gets {size // 2} sentences at a time; "
            "batches and in-batch negatives do not change"
        )
        return True

    def fit(self, stop: Stop) -> None:
        """The stage `fit`: fit the heads to the embeddings of the training examples.

        Raises:
            StopRequested: `stop` returned True.
        """
        for name, encoded in self.train_tokens.items():
            raise_if_stopped(stop, f"before the head of {name} was fitted")
            assert encoded.labels is not None
            head = self.model.heads[self.model.head_names[name]]
            embeddings = self.embeddings["train"][name]
            sides = embeddings.view(encoded.num_sides, encoded.num_examples, -1)
            labels = encoded.labels.double().numpy()
            fit_head(head, self.tasks[name].kind, sides.cpu(), labels)

    def end_epoch(self) -> None:
        """Update the average or the interpolation with the weights at the end of the epoch."""
        if self.interpolation is not None:
            self.interpolation.update(self.model)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def dev_outputs(self) -> dict[str, NDArray[np.float32]]:
        """Task -> raw outputs [N, C] or [N] for its dev examples; measures `ms_per_sentence`."""
        began = time.perf_counter()
        outputs = {
            name: outputs_of(
                self.scored_model,
                name,
                encoded,
                self.config.train.eval_batch_size,
                self.precision,
                self.embeddings["dev"].get(name),
            )
            for name, encoded in self.dev_tokens.items()
        }
        count = sum(each.num_sides * each.num_examples for each in self.dev_tokens.values())
        is_cached = bool(self.embeddings["dev"]) or not count
        self.ms_per_sentence = None if is_cached else 1000 * (time.perf_counter() - began) / count
        return outputs

    def load_weights(self, folder: Path) -> None:
        """Load the weights of an epoch from `folder`."""
        load_plain_weights(self.model, read_weights(folder))

    def _compile(self, stop: Stop) -> None:
        """Compile the encoder's layers if that is faster, or if `train.compile` is `always`."""
        encoder, settings = self.model.encoder, self.config.batching
        if self.config.train.compile == "always":
            compile_layers(encoder)
            return
        middle = [
            Step(
                name, np.argsort(tokens.lengths)[tokens.num_examples // 2 :][: settings.batch_size]
            )
            for name, tokens in self.train_tokens.items()
        ]
        batches = list(self.batches(middle, epoch=0))
        rng_state = dropout_state(self.device)

        def passes() -> None:
            with replayed(rng_state, self.device):
                for batch in batches:
                    self.loss(batch).backward()  # type: ignore[no-untyped-call]
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        purpose = f"{encoder.config.to_json_string()} {self.precision} {settings.batch_size}"  # type: ignore[union-attr,operator]
        self.notes.append(compile_if_faster(encoder, passes, purpose, stop).describe())

    def _set_rate(self, epoch: int, number: int) -> None:
        done = (epoch - self.stage.first_epoch) * self.num_steps + number
        set_rate(self.optimizer, self.stage.rate(self.config, epoch, done))

    def _encode(self, dataset: Dataset) -> None:
        """Tokenise all examples."""
        settings, max_length = self.config.model, self.model.max_length
        self.tokenizer = load_tokenizer(settings.encoder, settings.revision)
        require_vocabulary(self.model.encoder, self.tokenizer, settings.encoder)
        self.tokenizer_id = tokenizer_fingerprint(self.tokenizer, max_length)
        with_negatives = self.config.loss.mnr.hard_negatives
        self.train_tokens = {
            name: encode(examples, self.tokenizer, max_length, with_negatives)
            for name, examples in dataset.train.items()
        }
        self.dev_tokens = {
            name: encode(examples, self.tokenizer, max_length)
            for name, examples in dataset.dev.items()
        }
