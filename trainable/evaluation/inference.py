"""Inference: each distinct sentence is embedded once, for all heads.

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
    """The distinct sentences of all tasks, and for each task the index of each of its sentences
    among them, [sides, N]."""
    known: dict[str, int] = {}
    indices = {
        name: np.array(
            [[known.setdefault(text, len(known)) for text in side] for side in task_sides],
            np.int64,
        )
        for name, task_sides in sides.items()
    }
    return list(known), indices


def embeddings_of(
    model: MultitaskBert,
    tokens: Tokens,
    batch_size: int,
    precision: torch.dtype,
    tally: Tally | None = None,
) -> Tensor:
    """Embeddings [N, H] in float32, on the model's device, of all N tokenised sentences.

    The encoder processes each distinct sentence once, sorted by length, in batches of `batch_size`,
    which is halved when memory runs out.

    Args:
        tally: counts the N sentences; None: a new one.
    """
    device = next(model.parameters()).device
    ids = tokens.distinct_ids()
    first_of_each = np.unique(ids, return_index=True)[1]
    order = first_of_each[np.argsort(tokens.lengths[first_of_each], kind="stable")]
    pieces: list[Tensor] = []
    done = 0
    tally = tally or Tally("embedding sentences", len(ids))
    with inference(model, device, precision):
        while done < len(order):
            rows = order[done : done + batch_size]
            try:
                pieces.append(model.embed(tokens.pack(rows).to(device)).float())
                done += len(rows)
                tally.add(len(rows) * len(ids) / len(order), len(rows))
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                batch_size = len(rows) // 2
    index_in_order = np.empty_like(order)
    index_in_order[ids[order]] = np.arange(len(order))
    return torch.cat(pieces)[upload(torch.from_numpy(index_in_order[ids]), device)]


def head_outputs(
    model: MultitaskBert,
    task_name: str,
    embeddings: Tensor,
    indices: NDArray[np.int64],
    precision: torch.dtype,
) -> NDArray[np.float32]:
    """Raw outputs of the task's head: logits [N, C], or one logit or score [N].

    Args:
        embeddings: of the distinct sentences, [S, H].
        indices: of the examples' sentences among them, [sides, N].
    """
    device = next(model.parameters()).device
    pieces = []
    with inference(model, device, precision):
        for start in range(0, indices.shape[1], _HEAD_ROWS):
            rows = indices[:, start : start + _HEAD_ROWS]
            flat = upload(torch.from_numpy(rows.ravel()), embeddings.device)
            e = upload(embeddings[flat], device)
            pieces.append(model.answer(task_name, e, [rows.shape[1]] * len(rows)).outputs.float())
    return download(torch.cat(pieces))


@contextmanager
def inference(model: MultitaskBert, device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Eval mode, no gradients, and matrix products in `precision` while the block runs."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, precision):
            yield
    finally:
        model.train(was_training)
