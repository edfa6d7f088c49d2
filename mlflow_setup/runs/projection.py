"""The tags and metrics of a trial's MLflow run, from its records."""

import json
from collections.abc import Iterable, Iterator, Mapping

from mlflow_setup.schema import OVERALL, EpochRecord, Tag, TrialRecord, update_best

EPOCH_SECONDS = "epoch_seconds"
"""The metric that every epoch has: its points show which epochs a run has already."""
MS_PER_SENTENCE = "ms_per_sentence"
"""The metric of the lowest time to predict a dev sentence so far, by epochs that ran the encoder
for it."""
TIMES = (EPOCH_SECONDS, MS_PER_SENTENCE)
MAX_METRICS = 40


def fixed_tags(record: TrialRecord) -> dict[str, str]:
    """The tags that a run gets when it is created."""
    tags = {
        Tag.RECIPE.value: record.recipe,
        Tag.SEED.value: str(record.seed),
        Tag.DATA.value: record.data_fingerprint,
        Tag.PRETRAIN.value: "mlm" if record.config.get("pretrain.enabled") else "none",
    }
    if record.git_revision is not None:
        tags[Tag.GIT_REVISION.value] = record.git_revision
    if record.notes:
        tags[Tag.NOTES.value] = json.dumps(record.notes, sort_keys=True)
    return tags


def with_best(epochs: Iterable[EpochRecord]) -> Iterator[tuple[EpochRecord, dict[str, float]]]:
    """Each epoch with its metrics and the best dev metrics so far, `best/dev/...`."""
    best: dict[str, float] = {}
    speed: dict[str, float] = {}
    for record in epochs:
        update_best(best, record)
        best_metrics = {f"best/{key}": value for key, value in best.items()}
        if record.ms_per_sentence is not None:  # the minimum is least affected by other processes
            speed = {MS_PER_SENTENCE: min([record.ms_per_sentence, *speed.values()])}
        yield record, {EPOCH_SECONDS: record.seconds, **speed, **best_metrics, **record.metrics}


def most_important(metrics: Mapping[str, float]) -> dict[str, float]:
    """At most 40 metrics: overall scores first, then the best so far, then dev, then the rest. The
    two `TIMES` are always among them, and last.
    """

    def rank(key: str) -> tuple[bool, bool, bool, bool, str]:
        is_best, is_dev = key.startswith("best/"), key.startswith("dev/")
        return key not in TIMES, not key.endswith(OVERALL), not is_best, not is_dev, key

    kept = sorted(metrics, key=rank)[:MAX_METRICS]
    others = [key for key in kept if key not in TIMES]  # the UI plots the first metric by default
    return {key: metrics[key] for key in [*others, *(key for key in kept if key in TIMES)]}


def milliseconds(seconds: float) -> int:
    """Seconds as the milliseconds of MLflow's timestamps."""
    return round(seconds * 1000)
