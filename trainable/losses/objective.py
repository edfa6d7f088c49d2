"""Which losses a batch of a task adds up to: the one place where configuration meets losses."""

from torch import Tensor

from trainable.batches.collate import Batch
from trainable.config.config import Config
from trainable.config.sections import Distill
from trainable.config.tasks import Kind, Task
from trainable.losses.distillation import soft_loss
from trainable.losses.ranking import positive_ranking, ranking, weighted_ranking
from trainable.losses.simcse import simcse
from trainable.losses.task import task_loss
from trainable.model.heads import HeadOutput


def objective(task: Task, output: HeadOutput, batch: Batch, config: Config) -> Tensor:
    """The scalar to differentiate for one batch, SMART's penalty left out."""
    loss = config.loss
    if task.kind is Kind.ENTAILMENT:
        anchors, entailed = output.embeddings[:2]
        negatives = output.embeddings[-1] if batch.num_negatives else None
        return ranking(anchors, entailed, loss.mnr.similarity, loss.mnr.scale, negatives)
    assert batch.labels is not None
    labels = batch.labels
    total = _answers(task.kind, output, labels, batch.soft_labels, config.distill)
    if task.kind is Kind.PARAPHRASE:
        total = loss.paraphrase_weight * total
    if loss.mnr.enabled and batch.task_name in loss.mnr.tasks:
        left, right = output.embeddings[:2]
        settings = (loss.mnr.similarity, loss.mnr.scale)
        if task.kind is Kind.PARAPHRASE:
            added = positive_ranking(left, right, labels, *settings)
        else:
            added = weighted_ranking(left, right, labels, *settings, task.max_score)
        total = total + loss.mnr.weight * added
    if batch.view_of is not None:
        *sides, view = output.embeddings
        original = sides[0]
        if len(sides) == 2:
            is_first = batch.view_of[:, None] == 0
            original = sides[0].where(is_first, sides[1])
        total = total + loss.simcse.weight * simcse(
            original, view, loss.simcse.similarity, loss.simcse.temperature
        )
    return total


def has_smart(task_name: str, task: Task, config: Config) -> bool:
    """Whether SMART's penalty is added to the task's batches."""
    smart = config.loss.smart
    is_named = smart.tasks is None or task_name in smart.tasks
    return smart.enabled and is_named and task.kind is not Kind.ENTAILMENT


def _answers(
    kind: Kind, output: HeadOutput, labels: Tensor, soft_labels: Tensor | None, distill: Distill
) -> Tensor:
    """The task's loss, the teacher's share mixed in or added."""
    hard = task_loss(kind, output.outputs, labels)
    if soft_labels is None:
        return hard
    if output.distilled is not None:
        return hard + distill.weight * soft_loss(kind, output.distilled, soft_labels)
    soft = soft_loss(kind, output.outputs, soft_labels)
    return (1 - distill.weight) * hard + distill.weight * soft
