"""Ensweep: sweep multitask BERTs, track every run, ship the ensemble that is best for each task.

import ensweep

ensemble = ensweep.load("bundle")
ensemble.predict(["a warm and moving film"], task="sentiment")
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble.inference.ensemble import Ensemble

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("mlflow_setup", "trainable", "ensemble", "search")


class _OwnPackages:
    """Finds our packages beside this one: a `search.py` of the user may stand before them."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(_ROOT)]) if name in _PACKAGES else None


def own_packages() -> None:
    """Have `search` and the others mean ours, in this process, wherever it was started.

    Raises:
        ImportError: another module of that name is imported already.
    """
    for name in _PACKAGES:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or str(getattr(module, "__path__", ""))
        if module is not None and Path(file).resolve().parent != _ROOT / name:
            raise ImportError(
                f"ensweep has a package {name}, and {file} is imported under that name already: "
                "import ensweep before it, or rename it"
            )
    if _OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, _OwnPackages)


own_packages()

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
