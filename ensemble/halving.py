"""Weights of a bundle in half precision, and what that does to each score on dev."""

from dataclasses import dataclass
from pathlib import Path

from ensemble.bundle import Bundle, Contents, Halved, Precision
from ensemble.predict import Ensemble
from ensemble.stored_weights import convert_weights
from mlflow_setup.errors import ConfigError


@dataclass(frozen=True)
class Halving:
    """How to store the weights, and what to measure it on."""

    precision: Precision  # fp16 or bf16
    data_dir: Path  # with the tasks' dev files
    batch_size: int = 64


def halving_of(precision: Precision, data_dir: Path | None) -> Halving | None:
    """None for fp32.

    Raises:
        ConfigError: half precision without data to measure it on, or data without need.
    """
    if precision == "fp32":
        if data_dir is not None:
            raise ConfigError("--data-dir is for --precision fp16 or bf16", fix="leave it out")
        return None
    if data_dir is None:
        raise ConfigError(
            f"--precision {precision}: what it does to the scores is not known",
            fix="name the folder with the dev files: --data-dir DIR",
        )
    return Halving(precision, data_dir)


def halve(folder: Path, contents: Contents, halving: Halving) -> Contents:
    """Convert the weights of a bundle under construction; its contents with what that changed.

    Both ways the arithmetic is float32: half precision is of the files alone.

    Raises:
        DataError: as `Ensemble.evaluate`.
    """
    before = Ensemble(Bundle(folder, contents), halving.batch_size).evaluate(halving.data_dir)
    convert_weights(folder, halving.precision)
    after = Ensemble(Bundle(folder, contents), halving.batch_size).evaluate(halving.data_dir)
    return contents.model_copy(
        update={
            "precision": halving.precision,
            "halved": {
                name: Halved(fp32=score, stored=after.scores[name], num_rows=before.num_rows[name])
                for name, score in before.scores.items()
            },
        }
    )
