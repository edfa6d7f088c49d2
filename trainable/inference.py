"""Sentences without labels: each distinct one is embedded once, for every head that asks for it.

Legend: N examples, S distinct sentences, H hidden size, C classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainable.model import MultitaskBert
from trainable.tokens import Tokens

Sides = tuple[tuple[str, ...], ...]
"""The examples' sentences, a tuple of N for each side."""

_HEAD_ROWS = 1024


def distinct(sides: Mapping[str, Sides]) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """The distinct sentences of all tasks; of each task, which stand where: [sides, N]."""
    numbers: dict[str, int] = {}
    places = {
        name: np.array(
            [[numbers.setdefault(text, len(numbers)) for text in side] for side in of_task],
            np.int64,
        )
        for name, of_task in sides.items()
    }
    return list(numbers), places


def embeddings_of(
    model: MultitaskBert, tokens: Tokens, batch_size: int, precision: torch.dtype
) -> Tensor:
    """Embeddings [S, H] in float32 of all tokenised sentences, in batches of like length."""
    device = next(model.parameters()).device
    found = torch.empty((len(tokens.lengths), int(model.encoder.config.hidden_size)))  # type: ignore[union-attr,arg-type]
    order = np.argsort(tokens.lengths, kind="stable")
    was_training = model.training
    model.eval()
    use_autocast = precision is torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, use_autocast):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            input_ids, mask = tokens.pad(rows)
            e = model.embed(input_ids.to(device), mask.to(device))
            found[torch.from_numpy(rows)] = e.float().cpu()
    model.train(was_training)
    return found


def answers(
    model: MultitaskBert,
    task_name: str,
    embeddings: Tensor,
    places: NDArray[np.int64],
    precision: torch.dtype,
) -> NDArray[np.float32]:
    """Raw outputs of the task's head: logits [N, C], or one logit or score [N].

    Args:
        embeddings: [S, H], of the distinct sentences.
        places: [sides, N], which of them the examples have.
    """
    device = next(model.parameters()).device
    use_autocast = precision is torch.bfloat16
    pieces = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, use_autocast):
        for start in range(0, places.shape[1], _HEAD_ROWS):
            rows = places[:, start : start + _HEAD_ROWS]
            e = embeddings[torch.from_numpy(rows.ravel())].to(device)
            output = model.answer(task_name, e, [rows.shape[1]] * len(rows))
            pieces.append(output.outputs.float().cpu().numpy())
    return np.concatenate(pieces)
