"""What learns: model, optimizer and tokens, a step and an evaluation at a time.

It knows stages and losses, and nothing of epochs on disk: that is `trainable.training.train`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from trainable.batches.collate import Batch, collate
from trainable.batches.prefetch import ahead
from trainable.batches.sampler import Step
from trainable.batches.tokenization import encode, load_tokenizer, tokenizer_fingerprint
from trainable.config.config import Config
from trainable.data.dataset import Dataset
from trainable.evaluation.embedding_cache import sentence_embeddings, weights_fingerprint
from trainable.evaluation.evaluate import outputs_of
from trainable.losses.objective import has_smart, objective
from trainable.losses.smart import smart_penalty
from trainable.model.compilation import can_compile, compile_layers, verdict
from trainable.model.heads import HeadOutput
from trainable.model.multitask import MultitaskBert, build_model
from trainable.runtime.precision import autocast, choose_device, choose_precision
from trainable.runtime.rng_state import dropout_state, replayed, set_dropout_state
from trainable.runtime.stopping import Stop, never
from trainable.training.gradient_cache import MicroBatches
from trainable.training.optimizer import build_optimizer
from trainable.training.stages import Stage

_AHEAD = 2
"""Batches that are made and on their way to the GPU while it works."""


class Learner:
    """A trial's model in training."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        encoder: str | None = None,
        soft_labels: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.tasks = config, dataset.tasks
        self.soft_labels = soft_labels or {}
        self.device = choose_device(config.train.device)
        self.precision = choose_precision(config.train.precision, self.device)
        self.model = build_model(config, encoder).to(self.device).train()
        self.average: AveragedModel | None = None
        self.notes: list[str] = []
        """What happened that the record of the epoch should tell."""
        self.micro_batches = MicroBatches(config.batching.micro_batch_size, self.notes)
        self._encode(dataset)

    def enter(self, stage: Stage, stop: Stop = never) -> None:
        """Begin a stage: what is trainable, a fresh optimizer, embeddings or an average."""
        self.stage = stage
        is_probe = stage.name == "probe"
        self.model.freeze_encoder(is_probe)
        self.optimizer = build_optimizer(self.model, self.config.optim)
        self.scaler = GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.average = AveragedModel(self.model) if stage.name == "swa" else None
        self.embeddings: dict[str, dict[str, Tensor]] = {"train": {}, "dev": {}}
        if is_probe and self.config.probe.cache:
            encoder_id = weights_fingerprint(self.model.encoder)
            settings = (self.config.train.eval_batch_size, self.precision)
            for split, tokens in (("train", self.train_tokens), ("dev", self.dev_tokens)):
                for name, encoded in tokens.items():
                    found = sentence_embeddings(self.model, encoder_id, encoded, *settings, stop)
                    self.embeddings[split][name] = found
        elif can_compile(self.model.encoder, self.device, self.config.train.compile):
            self._compile(stop)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        size = self.config.batching.batch_size
        return sum(-(-tokens.num_examples // size) for tokens in self.train_tokens.values())

    @property
    def scored(self) -> MultitaskBert:
        """The model that is evaluated and kept: the average, once there is one."""
        if self.average is None or not int(self.average.n_averaged):
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, MultitaskBert)
        return averaged

    def batches(self, plan: Sequence[Step], epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch's plan from its step `first` on, ready before a GPU asks."""

        def make(number: int) -> Batch:
            step, config = plan[number], self.config
            return collate(
                step,
                self.train_tokens[step.task_name],
                self.soft_labels.get(step.task_name),
                config.loss,
                (config.seed, epoch, number),
                with_tokens=step.task_name not in self.embeddings["train"],
            ).to(self.device)

        return ahead(make, range(first, len(plan)), _AHEAD if self.device.type == "cuda" else 0)

    def step(self, batch: Batch, epoch: int, number: int) -> Tensor:
        """Forward, loss, backward, update: the whole of one optimisation step; its loss."""
        loss = self._backward(batch, f"epoch {epoch}, step {number + 1}")
        max_norm = self.config.optim.max_grad_norm
        if max_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), max_norm)
        self._set_rate(epoch, number)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _backward(self, batch: Batch, where: str) -> Tensor:
        """The batch's loss, its gradients taken; in smaller parts once memory runs out."""
        masks = dropout_state(self.device)
        while True:
            try:
                loss = self._loss(batch, masks)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                return loss.detach()
            except torch.OutOfMemoryError:
                if not self.micro_batches.halve(len(batch.sentences), where):
                    raise
            # after the except block, where what the failed pass held is free again
            self.optimizer.zero_grad(set_to_none=True)
            set_dropout_state(masks, self.device)

    def _loss(self, batch: Batch, masks: Tensor) -> Tensor:
        output = self.answer(batch)
        loss = objective(self.tasks[batch.task_name], output, batch, self.config)
        if self._has_smart(batch.task_name):
            loss = loss + self.config.loss.smart.weight * self.smart(batch, output, masks)
        return loss

    def end_epoch(self) -> None:
        """Take the epoch's final weights into the average."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def dev_outputs(self) -> dict[str, NDArray[np.float32]]:
        """Task -> raw outputs for its dev examples."""
        return {
            name: outputs_of(
                self.scored,
                name,
                encoded,
                self.config.train.eval_batch_size,
                self.precision,
                self.embeddings["dev"].get(name),
            )
            for name, encoded in self.dev_tokens.items()
        }

    def state(self) -> dict[str, Any]:
        """All that a resumed learner needs, as plain values and tensors."""
        return {
            "stage": self.stage.name,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "micro_batch_size": self.micro_batches.size,
            "notes": list(self.notes),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back `state`; where it ended the stage before this one, the weights alone."""
        self.model.load_state_dict(state["model"])
        self.micro_batches.size = state["micro_batch_size"]
        self.notes[:] = state["notes"]
        if state["stage"] == self.stage.name:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])

    def answer(self, batch: Batch, noise: Tensor | None = None) -> HeadOutput:
        """What the heads make of a training batch, under SMART's noise if given."""
        is_input = self.config.loss.smart.place == "input"
        precision = torch.float32 if self._has_smart(batch.task_name) else self.precision
        with autocast(self.device, precision):
            e = self._embed(batch, noise if is_input else None)
            if noise is not None and not is_input:
                e = e + noise
            return self.model.answer(batch.task_name, e, batch.sizes)

    def _embed(self, batch: Batch, noise: Tensor | None) -> Tensor:
        if batch.packed is None:
            cached = self.embeddings["train"][batch.task_name]
            return cached[torch.from_numpy(batch.sentences)].to(self.device)
        return self.micro_batches.embed(self.model, batch.packed, noise)

    def _has_smart(self, task_name: str) -> bool:
        """A frozen encoder learns nothing from noise at its input.

        Such batches run in float32: the penalty is a difference that half precision rounds away.
        """
        is_inert = self.stage.name == "probe" and self.config.loss.smart.place == "input"
        return not is_inert and has_smart(task_name, self.tasks[task_name], self.config)

    def smart(self, batch: Batch, clean: HeadOutput, masks: Tensor) -> Tensor:
        """SMART's penalty on a batch; `masks` is the generator's state before the clean pass."""
        settings = self.config.loss.smart

        def perturbed(noise: Tensor) -> Tensor:
            with replayed(masks, self.device):
                return self.answer(batch, noise).outputs

        shape = [len(batch.sentences), int(self.model.encoder.config.hidden_size)]  # type: ignore[union-attr,arg-type]
        if settings.place == "input":
            assert batch.packed is not None
            shape.insert(1, int(batch.packed.lengths[-1]))
        start = settings.init_std * torch.randn(shape, device=self.device)
        kind = self.tasks[batch.task_name].kind
        return smart_penalty(kind, perturbed, clean.outputs, start, settings)

    def _compile(self, stop: Stop) -> None:
        """Compile the encoder's layers, unless passes over batches say it is slower."""
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
        masks = dropout_state(self.device)

        def passes() -> None:
            with replayed(masks, self.device):
                for batch in batches:
                    self._loss(batch, masks).backward()  # type: ignore[no-untyped-call]
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        purpose = f"{encoder.config.to_json_string()} {self.precision} {settings.batch_size}"  # type: ignore[union-attr,operator]
        self.notes.append(verdict(encoder, passes, purpose, stop).describe())

    def _set_rate(self, epoch: int, number: int) -> None:
        done = (epoch - self.stage.first_epoch) * self.num_steps + number
        rate = self.stage.rate(self.config, epoch, done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _encode(self, dataset: Dataset) -> None:
        """Tokenise everything once."""
        settings, max_length = self.config.model, self.model.max_length
        self.tokenizer = load_tokenizer(settings.encoder, settings.revision)
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
