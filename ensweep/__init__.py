"""Ensweep: sweep multitask BERTs, track every run, ship the ensemble that is best for each task.

import ensweep

ensemble = ensweep.load("bundle")
ensemble.predict(["a warm and moving film"], task="sentiment")
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble.inference.ensemble import Ensemble

__version__: str
__all__ = ["__version__", "load"]


def load(folder: str | Path, batch_size: int = 64, precision: str = "fp32") -> "Ensemble":
    """Verify and load an exported bundle; see `Ensemble.predict`.

    Args:
        batch_size: examples a forward pass.
        precision: fp32, bf16, or auto (bf16 where the device multiplies it in hardware).

    Raises:
        ConfigError: no such precision, or a batch size below 1.
        IntegrityError: the bundle is not whole or was changed.
    """
    from ensemble.inference.ensemble import Ensemble

    return Ensemble.load(folder, batch_size, precision)


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: the look-up is slow."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("ensweep")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
