"""Passes without gradients: each distinct sentence is embedded once for every head that asks.

Legend: N examples, S distinct sentences, H hidden size, C classes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainable.batches.tokenization import Tokens
from trainable.model.multitask import MultitaskBert
from trainable.runtime.precision import autocast
from trainable.runtime.progress import Tally
from trainable.runtime.transfer import download, upload

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
    model: MultitaskBert,
    tokens: Tokens,
    batch_size: int,
    precision: torch.dtype,
    tally: Tally | None = None,
) -> Tensor:
    """Embeddings [N, H] in float32, on the model's device, of all N tokenised sentences.

    Those that differ go through the encoder sorted by length, `batch_size` at a time; fewer from
    where the memory does not hold so many.

    Args:
        tally: counts the N sentences; None: one of its own.
    """
    device = next(model.parameters()).device
    numbers = tokens.numbers()
    first_of_each = np.unique(numbers, return_index=True)[1]
    order = first_of_each[np.argsort(tokens.lengths[first_of_each], kind="stable")]
    pieces: list[Tensor] = []
    done = 0
    tally = tally or Tally("embedding sentences", len(numbers))
    with inference(model, device, precision):
        while done < len(order):
            rows = order[done : done + batch_size]
            try:
                pieces.append(model.embed(tokens.pack(rows).to(device)).float())
                done += len(rows)
                tally.add(len(rows) * len(numbers) / len(order), len(rows))
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                batch_size = len(rows) // 2
    places = np.empty_like(order)
    places[numbers[order]] = np.arange(len(order))
    return torch.cat(pieces)[upload(torch.from_numpy(places[numbers]), device)]


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
    pieces = []
    with inference(model, device, precision):
        for start in range(0, places.shape[1], _HEAD_ROWS):
            rows = places[:, start : start + _HEAD_ROWS]
            asked = upload(torch.from_numpy(rows.ravel()), embeddings.device)
            e = upload(embeddings[asked], device)
            pieces.append(model.answer(task_name, e, [rows.shape[1]] * len(rows)).outputs.float())
    return download(torch.cat(pieces))


@contextmanager
def inference(model: MultitaskBert, device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Eval mode, no gradients, products in `precision`; then the mode from before."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, precision):
            yield
    finally:
        model.train(was_training)
