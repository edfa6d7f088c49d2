"""System metrics of a trial's process, sampled while it runs: one JSON line per sample.

    attempts/0001.system.jsonl

Incomplete lines, left by a killed process, are skipped.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.runs.usage import SystemSample

SUFFIX = ".system.jsonl"


def append_sample(attempt: Path, sample: SystemSample) -> None:
    """Append a sample to those of an attempt.

    Args:
        attempt: the file of the attempt's record.

    Raises:
        OSError: it cannot be written.
    """
    with attempt.with_suffix(SUFFIX).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps([sample.wall_time, sample.values]) + "\n")
    storage_of(attempt).publish(attempt.with_suffix(SUFFIX))


def read_samples(attempts: Path) -> Iterator[SystemSample]:
    """All samples of a trial, oldest attempt first."""
    for path in sorted(attempts.glob(f"[0-9]*{SUFFIX}")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            sample = _parsed(line)
            if sample is not None:
                yield sample


def _parsed(line: str) -> SystemSample | None:
    try:
        wall_time, values = json.loads(line)
        numbers = {str(key): float(value) for key, value in values.items()}
        sample = SystemSample(float(wall_time), numbers)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    is_finite = all(map(math.isfinite, (sample.wall_time, *numbers.values())))
    return sample if is_finite and sample.wall_time > 0 else None
