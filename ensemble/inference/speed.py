"""Milliseconds a sentence on this machine, measured before there is a bundle.

Measured once a day: it is kept in the machine's cache, and what is known is told without loading a
model.
"""

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ensemble.candidates.pool import Candidate
from mlflow_setup.errors import EnsweepError
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.text import short_hash
from trainable.config.parse import from_flat
from trainable.runtime.cache import write_cached
from trainable.storage.address import trial_at

SENTENCES = [
    " ".join(("a warm and funny film about how people learn to cook bread",) * (1 + n % 2))
    for n in range(64)
]
"""Of 12 and 24 words: about those of the paper's data."""
BATCH_SIZE = 32
KEPT_SECONDS = 24 * 3600.0
"""A number of a busy hour does not stay for good."""
_THREADS_AND_DEVICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def milliseconds_of(members: Sequence[Candidate]) -> float | None:
    """Milliseconds a sentence takes in all distinct encoders, one after the other; None where the
    weights of one are out of reach. Heads take next to nothing, and encoders that differ in nothing
    but their weights take as long: one of them is asked."""
    distinct = {member.encoder or member.key: member for member in members}
    try:
        alike = Counter(map(_shape, distinct.values()))
        member_of = {_shape(member): member for member in distinct.values()}
        return sum(count * _known(shape, member_of[shape]) for shape, count in alike.items())
    except (EnsweepError, OSError, ValueError):
        return None  # an export says why


def _shape(member: Candidate) -> tuple[Any, ...]:
    """Equal for encoders that take the same time."""
    model = from_flat(trial_at(member.weights_uri).trial().config).model
    used = model.encoder, model.revision, model.pooling, model.max_length
    return (*used, member.num_encoder_parameters)


def _known(shape: tuple[Any, ...], member: Candidate) -> float:
    """What was measured here, or is now."""
    path = _kept_at(shape)
    try:
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            raise FileNotFoundError(path)
        return float(json.loads(path.read_text(encoding="utf-8"))["ms_per_sentence"])
    except (OSError, ValueError, TypeError, KeyError):
        measured = _milliseconds(member)
    write_cached(path, json.dumps({"ms_per_sentence": measured}))
    return measured


def _kept_at(shape: tuple[Any, ...]) -> Path:
    """A file for this encoder on this machine, with the threads and devices that it has now."""
    machine = platform.node(), platform.machine(), os.cpu_count()
    given = [os.environ.get(name) for name in _THREADS_AND_DEVICES]
    facts = [*shape, *machine, *given, *map(version, ("torch", "transformers"))]
    return cache_folder() / "speeds" / f"{short_hash(json.dumps(facts))}.json"


def _milliseconds(member: Candidate) -> float:
    from trainable.batches.tokenization import load_tokenizer, tokenise
    from trainable.evaluation.inference import embeddings_of
    from trainable.model.multitask import load_member
    from trainable.runtime.precision import choose_device, choose_precision

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
