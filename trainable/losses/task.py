"""The loss of each kind of task (section 4.1 of the paper)."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from trainable.config.tasks import Kind
from trainable.runtime.precision import to_float32


def task_loss(kind: Kind, outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch: cross-entropy, binary cross-entropy or squared error.

    Args:
        outputs: logits [B, C] (classification), a logit [B] (paraphrase), a score [B] (similarity).
        labels: float [B]: the class 0..C-1, 0 or 1, or a score in 0..max_score.
    """
    outputs = to_float32(outputs)
    labels = labels.to(outputs.dtype)
    if kind is Kind.CLASSIFICATION:
        return cross_entropy(outputs, labels.long())
    if kind is Kind.PARAPHRASE:
        return binary_cross_entropy_with_logits(outputs, labels)
    assert kind is Kind.SIMILARITY, f"a {kind} task has no loss of its own"
    return mse_loss(outputs, labels)
