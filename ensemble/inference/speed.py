"""Milliseconds a sentence on this machine, measured before there is a bundle."""

import time
from collections.abc import Sequence

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
    weights of one are out of reach. Heads take next to nothing."""
    distinct = {member.encoder or member.key: member for member in members}
    try:
        return sum(_milliseconds(member) for member in distinct.values())
    except (EnsweepError, OSError, ValueError):
        return None  # an export says why


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
