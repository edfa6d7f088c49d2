"""Predictions and metrics of a model for a split.

Legend: N examples, C classes or labels, H hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlflow_setup.schema import OVERALL, metric_name
from trainable.batches.tokenization import Encoded, Tokenizer, tokenise
from trainable.config.tasks import Task
from trainable.data.examples import Examples
from trainable.evaluation.inference import embeddings_of, head_outputs
from trainable.evaluation.metrics import overall, task_metric, why_undefined
from trainable.losses.task import task_loss
from trainable.model.multitask import MultitaskBert
from trainable.runtime.precision import choose_precision
from trainable.storage.predictions import Predictions, dev_train_mask


@dataclass(frozen=True)
class Evaluation:
    """The dev metrics of one epoch; without metrics where an output is not finite."""

    metrics: dict[str, float]  # on all rows
    dev_train: dict[str, float]  # on the rows of the dev-train half only
    flags: tuple[str, ...]  # warnings about undefined metrics
    is_finite: bool


def evaluate(
    tasks: Mapping[str, Task], examples: Mapping[str, Examples], outputs: Mapping[str, Any]
) -> Evaluation:
    """Score raw outputs (task -> [N, C] or [N]) against the labels of the dev examples."""
    if not all(np.isfinite(values).all() for values in outputs.values()):
        return Evaluation({}, {}, (), is_finite=False)
    flags: list[str] = []
    halves = []
    for only_dev_train in (False, True):
        metrics, scores = {}, {}
        for name, values in outputs.items():
            labels = examples[name].labels
            assert labels is not None
            rows = dev_train_mask(examples[name].ids) if only_dev_train else slice(None)
            score, is_defined = task_metric(tasks[name], values[rows], labels[rows])
            key = metric_name("dev", name, str(tasks[name].metric))
            metrics[key], scores[name] = score, score
            if not is_defined and not only_dev_train:
                flags.append(f"{key} is undefined: {why_undefined(labels)}; counted as 0")
            if not only_dev_train:
                targets = torch.from_numpy(examples[name].targets)
                loss = task_loss(tasks[name].kind, torch.from_numpy(values), targets)
                metrics[metric_name("dev", name, "loss")] = float(loss)
        metrics[OVERALL] = overall(scores, tasks)
        halves.append(metrics)
    return Evaluation(halves[0], halves[1], tuple(flags), is_finite=True)


def outputs_of(
    model: MultitaskBert,
    task_name: str,
    encoded: Encoded,
    batch_size: int,
    precision: torch.dtype,
    embeddings: Tensor | None = None,
) -> NDArray[np.float32]:
    """Raw outputs of all examples in row order: logits [N, C], or one logit or score [N].

    Args:
        embeddings: [sentences, H] if known; None: the encoder computes them.
    """
    if embeddings is None:
        size = batch_size * encoded.num_sides
        embeddings = embeddings_of(model, encoded.tokens, size, precision)
    sentences = np.arange(encoded.num_sides * encoded.num_examples)
    sides = sentences.reshape(encoded.num_sides, -1)
    return head_outputs(model, task_name, embeddings, sides, precision)


def predict(
    model: MultitaskBert,
    task_name: str,
    sentences: tuple[tuple[str, ...], ...],
    tokenizer: Tokenizer,
    *,
    batch_size: int = 64,
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """Raw outputs [N, C] or [N] for unlabelled sentences, given as a tuple of N per side."""
    num_examples = len(sentences[0])
    if num_examples == 0:
        raise ValueError("no sentences to predict")
    tokens = tokenise([text for side in sentences for text in side], tokenizer, model.max_length)
    encoded = Encoded(tokens, num_examples, len(sentences), None)
    device = next(model.parameters()).device
    return outputs_of(model, task_name, encoded, batch_size, choose_precision(precision, device))


def predictions_of(
    task: Task, examples: Examples, outputs: NDArray[np.float32], tokenizer: str
) -> Predictions:
    """The content of a prediction file, from the raw outputs [N, C] or [N] for a split's
    examples."""
    return Predictions(
        task_name=examples.task_name,
        kind=task.kind,
        split=examples.split,
        ids=examples.ids,
        outputs=outputs,
        labels=examples.labels,
        data_fingerprint=examples.fingerprint,
        tokenizer=tokenizer,
    )
