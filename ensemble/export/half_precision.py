"""Conversion of a bundle's weights to half precision, and its effect on the scores on dev."""

from dataclasses import dataclass
from pathlib import Path

from ensemble.bundle.format import Bundle, Contents, Halved, Precision
from ensemble.bundle.stored_weights import convert_weights
from ensemble.inference.ensemble import Ensemble


@dataclass(frozen=True)
class Halving:
    """Converts the weights of a bundle that is being written, and measures the change in score."""

    precision: Precision  # fp16 or bf16
    data_dir: Path  # the tasks' dev files
    batch_size: int = 64

    def __call__(self, folder: Path, contents: Contents) -> Contents:
        """Convert the weights and return the contents with each task's scores before and after.

        Computation is in float32 in both cases: only the stored weights are in half precision.

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
