"""Milliseconds per sentence on this machine, measured without a bundle.

The measurement is cached for a day, so that a model is loaded only once.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from ensemble.candidates.pool import Candidate
from mlflow_setup.errors import EnsweepError
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.text import short_hash
from trainable.config.parse import from_flat
from trainable.runtime.cache import write_cached
from trainable.storage.address import trial_at

_WORDS = [
    *("a", "warm", "and", "funny", "film", "about"),
    *("how", "people", "learn", "to", "cook", "bread"),
]
SENTENCES = [" ".join(Random(n).sample(_WORDS, 12) * (1 + n % 2)) for n in range(64)]
"""Distinct sentences of 12 and 24 words, about as long as those of the paper's data."""
BATCH_SIZE = 32
KEPT_SECONDS = 24 * 3600.0
"""How long a measurement is cached: the machine may have been busy."""
_THREADS_AND_DEVICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def milliseconds_of(members: Sequence[Candidate]) -> float | None:
    """Return the milliseconds per sentence of all distinct encoders, one after the other; None if
    the weights of one cannot be reached. Heads take almost no time, and encoders that differ only
    in their weights take the same time, so one of them is measured."""
    distinct = {member.encoder or member.key: member for member in members}
    try:
        members_by_shape: dict[tuple[Any, ...], list[Candidate]] = {}
        for member in distinct.values():
            members_by_shape.setdefault(_shape(member), []).append(member)
        return sum(len(same) * _cached(shape, same[-1]) for shape, same in members_by_shape.items())
    except (EnsweepError, OSError, ValueError):
        return None  # an export reports the reason


def _shape(member: Candidate) -> tuple[Any, ...]:
    """Return what determines an encoder's speed; equal for encoders that take the same time."""
    model = from_flat(trial_at(member.weights_uri).trial().config).model
    used = model.encoder, model.revision, model.pooling, model.max_length
    return (*used, member.num_encoder_parameters)


def _cached(shape: tuple[Any, ...], member: Candidate) -> float:
    """Return the cached measurement, or measure and cache it."""
    path = _cache_path(shape)
    try:
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            raise FileNotFoundError(path)
        return float(json.loads(path.read_text(encoding="utf-8"))["ms_per_sentence"])
    except (OSError, ValueError, TypeError, KeyError):
        measured = _milliseconds(member)
    write_cached(path, json.dumps({"ms_per_sentence": measured}))
    return measured


def _cache_path(shape: tuple[Any, ...]) -> Path:
    """Return the cache file of an encoder on this machine with its current threads and devices, for
    these sentences."""
    machine = platform.node(), platform.machine(), os.cpu_count()
    threads_and_devices = [os.environ.get(name) for name in _THREADS_AND_DEVICES]
    versions = map(version, ("torch", "transformers"))
    facts = [*shape, *machine, *threads_and_devices, *versions, *SENTENCES]
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
    num_embedded = len(set(tokens.distinct_ids().tolist()))  # equal sentences are embedded once
    seconds = []
    for _ in range(3):  # the first one warms up
        started = time.perf_counter()
        embeddings_of(model, tokens, BATCH_SIZE, precision)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds[1:]) / num_embedded
