"""The loss of a batch: the sum of the terms that the configuration enables."""

import torch
from torch import Tensor

from trainable.batches.collate import Batch
from trainable.config.config import Config
from trainable.config.tasks import Kind, Output, Task
from trainable.losses.distillation import soft_loss
from trainable.losses.ranking import positive_ranking, ranking, weighted_ranking
from trainable.losses.simcse import simcse
from trainable.losses.smart import smart_penalty
from trainable.losses.task import task_loss
from trainable.model.architectures import token_width
from trainable.model.heads import HeadOutput
from trainable.model.multitask import MultitaskBert
from trainable.runtime.rng_state import replayed


class Objective:
    """The training loss of a trial.

    Entailment batches have MNR as their only loss. Every other task has its own loss and those of
    distillation, MNR, SimCSE and SMART that are enabled for it.
    """

    def __init__(self, config: Config) -> None:
        self.tasks = config.task_records()
        self.loss, self.distill = config.loss, config.distill

    def __call__(self, batch: Batch, output: HeadOutput, model: MultitaskBert) -> Tensor:
        """The loss, a scalar; `output` is the output of `model` for the batch in training mode."""
        total = self.without_smart(batch, output)
        if self.has_smart(batch.task_name, model):
            total = total + self.loss.smart.weight * self.smart(batch, output, model)
        return total

    def without_smart(self, batch: Batch, output: HeadOutput) -> Tensor:
        """The sum of the terms that need no further forward pass, a scalar."""
        task = self.tasks[batch.task_name]
        if task.kind is Kind.ENTAILMENT:
            return self._entailment(batch, output)
        total = self._supervised(task, batch, output)
        if self.loss.mnr.enabled and batch.task_name in self.loss.mnr.tasks:
            total = total + self.loss.mnr.weight * self._mnr(task, batch, output)
        if batch.view_of is not None:
            total = total + self.loss.simcse.weight * self._simcse(batch.view_of, output)
        return total

    def has_smart(self, task_name: str, model: MultitaskBert) -> bool:
        """Whether the task's batches have SMART's penalty.

        Noise at the input of a frozen encoder is skipped: the encoder cannot learn from it.
        """
        smart = self.loss.smart
        is_selected = smart.tasks is None or task_name in smart.tasks
        is_inert = model.is_encoder_frozen and smart.place == "input"
        has_labels = self.tasks[task_name].kind is not Kind.ENTAILMENT
        return smart.enabled and is_selected and has_labels and not is_inert

    def smart(self, batch: Batch, output: HeadOutput, model: MultitaskBert) -> Tensor:
        """SMART's unweighted penalty, a scalar; its forward passes repeat the dropout masks of
        `output`."""
        settings, rng_state = self.loss.smart, output.rng_state
        device = output.outputs.device
        assert rng_state is not None, "the model was not in training mode"

        def perturbed(noise: Tensor) -> Tensor:
            with replayed(rng_state, device):
                perturbed_output: HeadOutput = model(batch, noise)
            return perturbed_output.outputs

        shape = [len(batch.sentences), int(model.encoder.config.hidden_size)]  # type: ignore[union-attr,arg-type]
        if settings.place == "input":
            assert batch.packed is not None
            shape[1:] = [int(batch.packed.lengths[-1]), token_width(model.encoder)]
        start = settings.init_std * torch.randn(shape, device=device)
        kind = self.tasks[batch.task_name].kind
        return smart_penalty(kind, perturbed, output.outputs, start, settings)

    def _entailment(self, batch: Batch, output: HeadOutput) -> Tensor:
        anchors, entailed = output.embeddings[:2]
        negatives = output.embeddings[-1] if batch.num_negatives else None
        mnr = self.loss.mnr
        return ranking(anchors, entailed, mnr.similarity, mnr.scale, negatives)

    def _supervised(self, task: Task, batch: Batch, output: HeadOutput) -> Tensor:
        """The loss of the labels, with the loss of the teacher's soft labels mixed in or added."""
        assert batch.labels is not None
        total = task_loss(task.kind, output.outputs, batch.labels)
        weight, soft_labels = self.distill.weight, batch.soft_labels
        if soft_labels is not None and output.distilled is not None:
            total = total + weight * soft_loss(task.kind, output.distilled, soft_labels)
        elif soft_labels is not None:
            soft = soft_loss(task.kind, output.outputs, soft_labels)
            total = (1 - weight) * total + weight * soft
        return self.loss.paraphrase_weight * total if task.kind.output is Output.BINARY else total

    def _mnr(self, task: Task, batch: Batch, output: HeadOutput) -> Tensor:
        """MNR over the positive pairs of a paraphrase task; over a similarity task's pairs,
        weighted by score."""
        assert batch.labels is not None
        left, right = output.embeddings[:2]
        mnr = self.loss.mnr
        if task.kind.output is Output.BINARY:
            return positive_ranking(left, right, batch.labels, mnr.similarity, mnr.scale)
        return weighted_ranking(
            left, right, batch.labels, mnr.similarity, mnr.scale, task.max_score
        )

    def _simcse(self, view_of: Tensor, output: HeadOutput) -> Tensor:
        """SimCSE between the last side, a second dropout view, and the side that it is a view of.

        `view_of` [B] is the number of that side, 0 or 1.
        """
        *sides, view = output.embeddings
        original = sides[0]
        if len(sides) == 2:
            original = sides[0].where(view_of[:, None] == 0, sides[1])
        simcse_settings = self.loss.simcse
        return simcse(original, view, simcse_settings.similarity, simcse_settings.temperature)
