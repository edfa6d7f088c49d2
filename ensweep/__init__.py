"""Ensweep: sweep multitask BERTs, track every run, ship the ensemble that is best for each task.

import ensweep

ensemble = ensweep.load("bundle")
ensemble.predict(["a warm and moving film"], task="sentiment")
"""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble.predict import Ensemble

__version__ = metadata.version("ensweep")
__all__ = ["load"]


def load(folder: str | Path, batch_size: int = 64, precision: str = "fp32") -> "Ensemble":
    """Verify and load an exported bundle; see `Ensemble.predict`.

    Raises:
        IntegrityError: the bundle is not whole or was changed.
    """
    from ensemble.predict import Ensemble

    return Ensemble.load(folder, batch_size, precision)
