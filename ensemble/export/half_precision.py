"""Weights of a bundle in half precision, and what that does to each score on dev."""

from dataclasses import dataclass
from pathlib import Path

from ensemble.bundle.format import Bundle, Contents, Halved, Precision
from ensemble.bundle.stored_weights import convert_weights
from ensemble.inference.ensemble import Ensemble


@dataclass(frozen=True)
class Halving:
    """Called on a bundle under construction, it converts the weights and measures the change."""

    precision: Precision  # fp16 or bf16
    data_dir: Path  # with the tasks' dev files
    batch_size: int = 64

    def __call__(self, folder: Path, contents: Contents) -> Contents:
        """The contents with what the conversion did to each score.

        Both ways the arithmetic is float32: half precision is of the files alone.

        Raises:
            DataError: as `Ensemble.evaluate`.
        """
        bundle = Bundle(folder, contents)
        before = Ensemble(bundle, self.batch_size).evaluate(self.data_dir)
        convert_weights(folder, self.precision)
        after = Ensemble(bundle, self.batch_size).evaluate(self.data_dir)
        halved = {
            name: Halved(fp32=score, stored=after.scores[name], num_rows=before.num_rows[name])
            for name, score in before.scores.items()
        }
        return contents.model_copy(update={"precision": self.precision, "halved": halved})
