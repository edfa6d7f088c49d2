"""The loss of each kind of task (section 4.1 of the paper).

Legend: B examples, C classes or labels.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from trainable.config.tasks import Kind, Output
from trainable.runtime.precision import to_float32


def task_loss(kind: Kind, outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch: cross-entropy, binary cross-entropy or squared error.

    Args:
        outputs: logits of classes or of a set's labels [B, C], logits [B], or scores [B].
        labels: float [B]: a class 0..C-1, 0 or 1, or a score; for label sets 0 or 1, [B, C].
    """
    outputs = to_float32(outputs)
    labels = labels.to(outputs.dtype)
    if kind.output is Output.CLASSES:
        return cross_entropy(outputs, labels.long())
    if kind.output in (Output.BINARY, Output.LABELS):
        return binary_cross_entropy_with_logits(outputs, labels)
    assert kind.output is Output.SCORE, f"{kind} tasks have no supervised loss"
    return mse_loss(outputs, labels)
