"""Distillation: the loss against a teacher's soft labels (section 4.6).

Legend: B examples, C classes or labels.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from trainable.config.tasks import Kind, Output
from trainable.runtime.precision import to_float32


def soft_loss(kind: Kind, outputs: Tensor, teacher: Tensor) -> Tensor:
    """The task's loss with the teacher's probabilities or scores as targets, mean over the batch.

    Classes: cross-entropy with the teacher's softmax; binary and multi-label tasks: binary
    cross-entropy with its sigmoid; scores: squared difference.

    Args:
        outputs, teacher: logits of classes or of a set's labels [B, C], logits [B], or scores [B].
    """
    outputs = to_float32(outputs)
    teacher = teacher.to(outputs)
    if kind.output is Output.CLASSES:
        return cross_entropy(outputs, teacher.softmax(-1))
    if kind.output in (Output.BINARY, Output.LABELS):
        return binary_cross_entropy_with_logits(outputs, teacher.sigmoid())
    return mse_loss(outputs, teacher)
