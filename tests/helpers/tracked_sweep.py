"""A sweep of many trials in MLflow: trial folders, projected by the mirror."""

import random

from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.runs.usage import SystemSample
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.ui_view import View
from search.config.sweep_config import SweepConfig
from search.storage.sweep_folder import SweepFolder
from trainable.config.parse import from_flat
from trainable.storage.layout import ATTEMPTS
from trainable.storage.system_samples import append_sample

SCORES = (
    "dev/overall",
    "dev/sentiment/accuracy",
    "dev/paraphrase/accuracy",
    "dev/similarity/pearson",
)
START = 1_790_000_000.0
"""Wall time of the first trial, fixed so that the record does not depend on when a test runs."""


def track_sweep(folder: SweepFolder, sweep: SweepConfig, tracking: Tracking, count: int) -> None:
    """Log `count` trials of three epochs with seeded random settings and plausible scores."""
    draw = random.Random(0)
    folder.create(sweep)
    mirror = Mirror(tracking, folder.name)
    view = View(tuple(f"best/{name}" for name in SCORES), tuple(sweep.space))
    tags = {"recipe": sweep.recipe, "searched": ",".join(sweep.space), "baselines": "majority"}
    mirror.start(tags, {"sweep": sweep.name}, {}, view)
    base = sweep.base()
    for number in range(count):
        name = f"{number + 1:04d}"
        point = {key: _draw(draw, parameter) for key, parameter in sweep.space.items()}
        config = from_flat({**base.settings, **point})
        trial = folder.trial(name)
        start = START + 60 * number
        (trial.path / ATTEMPTS).mkdir(parents=True)
        trial.create(
            TrialRecord(
                *(name, folder.name, base.recipe, config.flat(), {}, 0, "data", None, start),
                searched=tuple(point),
            )
        )
        quality = draw.gauss(0.6, 0.05)
        for epoch in range(1, 4):
            trial.write_epoch(
                EpochRecord(epoch, _metrics(draw, quality, epoch), {}, 9.5, start + epoch)
            )
        for second in range(4):
            values = {"system/process_cpu_percentage": draw.uniform(80, 100)}
            append_sample(trial.path / ATTEMPTS / "0001.json", SystemSample(start + second, values))
        outcome = Outcome.FINISHED if number % 3 else Outcome.PRUNED
        trial.write_outcome(OutcomeRecord(outcome, "a reason", 3, start + 4))
        mirror.project(trial.snapshot())
    mirror.finish("FINISHED")


def _draw(draw: random.Random, parameter: object) -> object:
    corners = parameter.corners  # type: ignore[attr-defined]
    if parameter.type == "float":  # type: ignore[attr-defined]
        return round(draw.uniform(*corners), 6)
    return draw.choice(corners)


def _metrics(draw: random.Random, quality: float, epoch: int) -> dict[str, float]:
    scores = {
        "dev/sentiment/accuracy": quality - 0.15 + 0.02 * epoch,
        "dev/paraphrase/accuracy": quality + 0.1 + 0.02 * epoch,
        "dev/similarity/pearson": quality + 0.15 + 0.01 * epoch,
    }
    scores = {key: value + draw.gauss(0, 0.005) for key, value in scores.items()}
    losses = {
        f"{split}/{task}/loss": level / epoch
        for task in ("sentiment", "paraphrase", "similarity")
        for split, level in (("train", 1.0), ("dev", 1.2))
    }
    return {**scores, "dev/overall": sum(scores.values()) / 3, **losses}
