"""Milliseconds a sentence on this machine, measured before there is a bundle."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ensemble.candidates.pool import Candidate
from mlflow_setup.errors import EnsweepError
from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.config.parse import from_flat
from trainable.evaluation.inference import embeddings_of
from trainable.model.multitask import load_member
from trainable.runtime.precision import choose_device, choose_precision
from trainable.storage.address import trial_at

SENTENCES = [
    " ".join(("a warm and funny film about how people learn to cook bread",) * (1 + n % 2))
    for n in range(64)
]
"""Of 12 and 24 words: about those of the paper's data."""
BATCH_SIZE = 32


def milliseconds_of(members: Sequence[Candidate]) -> float | None:
    """Milliseconds a sentence takes in all distinct encoders, one after the other; None where the
    weights of one are out of reach. Heads take next to nothing, and encoders that differ in nothing
    but their weights take as long: one of them is asked."""
    distinct = {member.encoder or member.key: member for member in members}
    try:
        alike = Counter(map(_shape, distinct.values()))
        member_of = {_shape(member): member for member in distinct.values()}
        return sum(count * _milliseconds(member_of[shape]) for shape, count in alike.items())
    except (EnsweepError, OSError, ValueError):
        return None  # an export says why


def _shape(member: Candidate) -> tuple[Any, ...]:
    """Equal for encoders that take the same time."""
    model = from_flat(trial_at(member.weights_uri).trial().config).model
    used = model.encoder, model.revision, model.pooling, model.max_length
    return (*used, member.num_encoder_parameters)


def _milliseconds(member: Candidate) -> float:
    trial = trial_at(member.weights_uri)
    weights = trial.require_weights(member.epoch)
    model = load_member(weights, trial.encoder_dir, from_flat(trial.trial().config))
    model.to(choose_device("auto"))
    precision = choose_precision("fp32", next(model.parameters()).device)
    tokens = tokenise(SENTENCES, load_tokenizer(trial.encoder_dir), model.max_length)
    seconds = []
    for _ in range(3):  # the first one warms up
        started = time.perf_counter()
        embeddings_of(model, tokens, BATCH_SIZE, precision)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds[1:]) / len(SENTENCES)
