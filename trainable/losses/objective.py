"""The loss of a batch, summed from its terms: the one place where configuration meets losses."""

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
    """The terms of a trial's loss that are switched on.

    Entailment batches are ranked (MNR) and nothing else. To every other task's own loss come, where
    they are switched on for the task: the teacher's soft labels, MNR, SimCSE and SMART.
    """

    def __init__(self, config: Config) -> None:
        self.tasks = config.task_records()
        self.loss, self.distill = config.loss, config.distill

    def __call__(self, batch: Batch, output: HeadOutput, model: MultitaskBert) -> Tensor:
        """The scalar to differentiate: `output` is what `model` made of the batch in training."""
        total = self.without_smart(batch, output)
        if self.has_smart(batch.task_name, model):
            total = total + self.loss.smart.weight * self.smart(batch, output, model)
        return total

    def without_smart(self, batch: Batch, output: HeadOutput) -> Tensor:
        """All terms that need no further pass of the model: a scalar."""
        task = self.tasks[batch.task_name]
        if task.kind is Kind.ENTAILMENT:
            return self._entailment(batch, output)
        total = self._answers(task, batch, output)
        if self.loss.mnr.enabled and batch.task_name in self.loss.mnr.tasks:
            total = total + self.loss.mnr.weight * self._mnr(task, batch, output)
        if batch.view_of is not None:
            total = total + self.loss.simcse.weight * self._simcse(batch.view_of, output)
        return total

    def has_smart(self, task_name: str, model: MultitaskBert) -> bool:
        """Whether the task's batches have SMART's penalty.

        Noise at the input of a frozen encoder teaches it nothing.
        """
        smart = self.loss.smart
        is_named = smart.tasks is None or task_name in smart.tasks
        is_inert = model.is_encoder_frozen and smart.place == "input"
        has_labels = self.tasks[task_name].kind is not Kind.ENTAILMENT
        return smart.enabled and is_named and has_labels and not is_inert

    def smart(self, batch: Batch, output: HeadOutput, model: MultitaskBert) -> Tensor:
        """SMART's penalty, unweighted: a scalar. Its passes have the dropout masks of `output`."""
        settings, rng_state = self.loss.smart, output.rng_state
        device = output.outputs.device
        assert rng_state is not None, "the model was not in training"

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

    def _answers(self, task: Task, batch: Batch, output: HeadOutput) -> Tensor:
        """The task's own loss, the teacher's share mixed in or added."""
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
        """Among the positive pairs of a paraphrase task; weighted by the score for similarity."""
        assert batch.labels is not None
        left, right = output.embeddings[:2]
        mnr = self.loss.mnr
        if task.kind.output is Output.BINARY:
            return positive_ranking(left, right, batch.labels, mnr.similarity, mnr.scale)
        return weighted_ranking(
            left, right, batch.labels, mnr.similarity, mnr.scale, task.max_score
        )

    def _simcse(self, view_of: Tensor, output: HeadOutput) -> Tensor:
        """The last side is a second dropout view of one of the example's own sides."""
        *sides, view = output.embeddings
        original = sides[0]
        if len(sides) == 2:
            original = sides[0].where(view_of[:, None] == 0, sides[1])
        simcse_settings = self.loss.simcse
        return simcse(original, view, simcse_settings.similarity, simcse_settings.temperature)
