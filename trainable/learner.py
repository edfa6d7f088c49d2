"""What learns: model, optimizer and tokens, a step and an evaluation at a time.

It knows stages and losses, and nothing of epochs on disk: that is `trainable.train`.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from trainable.batch import Batch, collate
from trainable.batching import Step
from trainable.config import Config
from trainable.dataset import Dataset
from trainable.embeddings import sentence_embeddings, weights_fingerprint
from trainable.evaluate import outputs_of
from trainable.heads import HeadOutput
from trainable.losses.smart import smart_penalty
from trainable.model import MultitaskBert, build_model, choose_device, choose_precision
from trainable.objective import has_smart, objective
from trainable.optim import build_optimizer
from trainable.rng_state import dropout_state, replayed
from trainable.stages import Stage
from trainable.tokens import encode, load_tokenizer, tokenizer_fingerprint
from trainable.waiting import Stop, never


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
        self._encode(dataset)

    def enter(self, stage: Stage, stop: Stop = never) -> None:
        """Begin a stage: what is trainable, a fresh optimizer, embeddings or an average."""
        self.stage = stage
        is_probe = stage.name == "probe"
        self.model.freeze_encoder(is_probe)
        self.optimizer = build_optimizer(self.model, self.config.optim)
        self.average = AveragedModel(self.model) if stage.name == "swa" else None
        self.embeddings: dict[str, dict[str, Tensor]] = {"train": {}, "dev": {}}
        if is_probe and self.config.probe.cache:
            encoder_id = weights_fingerprint(self.model.encoder)
            settings = (self.config.train.eval_batch_size, self.precision)
            for split, tokens in (("train", self.train_tokens), ("dev", self.dev_tokens)):
                for name, encoded in tokens.items():
                    found = sentence_embeddings(self.model, encoder_id, encoded, *settings, stop)
                    self.embeddings[split][name] = found

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

    def step(self, step: Step, epoch: int, number: int) -> Tensor:
        """Forward, loss, backward, update: the whole of one optimisation step; its loss."""
        name, config = step.task_name, self.config
        encoded, soft_labels = self.train_tokens[name], self.soft_labels.get(name)
        batch = collate(step, encoded, soft_labels, config.loss, (config.seed, epoch, number))
        masks = dropout_state(self.device)
        output = self.answer(batch)
        loss = objective(self.tasks[name], output, batch, config)
        if self._has_smart(name):
            loss = loss + config.loss.smart.weight * self.smart(batch, output, masks)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.optim.max_grad_norm is not None:
            clip_grad_norm_(self.model.parameters(), config.optim.max_grad_norm)
        self._set_rate(epoch, number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

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
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back `state`; where it ended the stage before this one, the weights alone."""
        self.model.load_state_dict(state["model"])
        if state["stage"] == self.stage.name:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])

    def answer(self, batch: Batch, noise: Tensor | None = None) -> HeadOutput:
        """What the heads make of a training batch, under SMART's noise if given."""
        is_input = self.config.loss.smart.place == "input"
        use_autocast = self.precision is torch.bfloat16 and not self._has_smart(batch.task_name)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use_autocast):
            e = self._embed(batch, noise if is_input else None)
            if noise is not None and not is_input:
                e = e + noise
            return self.model.answer(batch.task_name, e, batch.sizes)

    def _embed(self, batch: Batch, noise: Tensor | None) -> Tensor:
        cached = self.embeddings["train"].get(batch.task_name)
        if cached is not None:
            return cached[torch.from_numpy(batch.sentences)].to(self.device)
        input_ids, mask = self.train_tokens[batch.task_name].tokens.pad(batch.sentences)
        return self.model.embed(input_ids.to(self.device), mask.to(self.device), noise)

    def _has_smart(self, task_name: str) -> bool:
        """A frozen encoder learns nothing from noise at its input.

        Such batches run in float32: the penalty is a difference that bf16 would round away.
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
            lengths = self.train_tokens[batch.task_name].tokens.lengths[batch.sentences]
            shape.insert(1, int(lengths.max()))
        start = settings.init_std * torch.randn(shape, device=self.device)
        kind = self.tasks[batch.task_name].kind
        return smart_penalty(kind, perturbed, clean.outputs, start, settings)

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
