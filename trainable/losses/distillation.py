"""Distillation: the loss against a teacher's soft labels (section 4.6).

Legend: B examples, C classes or labels.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from trainable.config.tasks import Kind, Output
from trainable.runtime.precision import to_float32


def soft_loss(kind: Kind, outputs: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch, of the form of the task's own loss, with the teacher for the label.

    Args:
        outputs, teacher: logits [B, C]: cross-entropy with the teacher's softmax; logits [B]:
            (or [B, C] of a set's labels) binary cross-entropy with its sigmoid; scores [B]: squared
            difference.
    """
    outputs = to_float32(outputs)
    teacher = teacher.to(outputs)
    if kind.output is Output.CLASSES:
        return cross_entropy(outputs, teacher.softmax(-1))
    if kind.output in (Output.BINARY, Output.LABELS):
        return binary_cross_entropy_with_logits(outputs, teacher.sigmoid())
    return mse_loss(outputs, teacher)
