"""Which losses a batch of a task adds up to: the one place where configuration meets losses."""

from torch import Tensor

from trainable.config import Loss
from trainable.heads import HeadOutput
from trainable.losses.ranking import ranking, weighted_ranking
from trainable.losses.simcse import simcse
from trainable.losses.task import task_loss
from trainable.tasks import Kind, Task


def has_second_view(task_name: str, loss: Loss) -> bool:
    """Whether batches of the task carry a second dropout view of one sentence a row."""
    return loss.simcse.enabled and task_name in loss.simcse.tasks


def objective(
    task_name: str,
    task: Task,
    output: HeadOutput,
    labels: Tensor | None,
    view_of: Tensor | None,
    loss: Loss,
) -> Tensor:
    """The scalar to differentiate for one batch.

    Args:
        labels: [B], or None for entailment.
        view_of: [B] with 0 or 1, the side whose second view is the third embedding; or None.
    """
    if task.kind is Kind.ENTAILMENT:
        anchors, entailed = output.embeddings
        return ranking(anchors, entailed, loss.mnr.similarity, loss.mnr.scale)
    assert labels is not None
    total = task_loss(task.kind, output.outputs, labels)
    if task.kind is Kind.PARAPHRASE:
        total = loss.paraphrase_weight * total
    if loss.mnr.enabled and task_name in loss.mnr.tasks:
        left, right = output.embeddings[:2]
        total = total + loss.mnr.weight * weighted_ranking(
            left, right, labels, loss.mnr.similarity, loss.mnr.scale, task.max_score
        )
    if view_of is not None:
        left, right, view = output.embeddings
        original = left.where(view_of[:, None] == 0, right)
        total = total + loss.simcse.weight * simcse(
            original, view, loss.simcse.similarity, loss.simcse.temperature
        )
    return total
