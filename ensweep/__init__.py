"""Ensweep: sweep multitask BERTs, track every run, ship the ensemble that is best for each task.

import ensweep

sweep = ensweep.sweep("selective", "data")
sweep.leaderboard()
sweep.ensemble().export("bundle")
ensweep.load("bundle").predict(["a warm and moving film"], task="sentiment")
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.inference.ensemble import Ensemble
    from ensweep.api import Choice, Sweep, sweep

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("mlflow_setup", "trainable", "ensemble", "search")


class _OwnPackages:
    """Import hook that finds our packages beside this one, even if a `search.py` of the user comes
    first on `sys.path`."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(_ROOT)]) if name in _PACKAGES else None


def own_packages() -> None:
    """Make `import search` and the like import our packages in this process.

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

from mlflow_setup.errors import (  # noqa: E402 - after the import hook is installed
    ConfigError,
    DataError,
    EnsweepError,
    IntegrityError,
    NothingUsableError,
    PartialError,
)

__version__: str
__all__ = [
    "Choice",
    "ConfigError",
    "DataError",
    "EnsweepError",
    "IntegrityError",
    "NothingUsableError",
    "PartialError",
    "Sweep",
    "__version__",
    "load",
    "sample_data",
    "sweep",
]


def load(folder: str | Path, batch_size: int = 64, precision: str = "fp32") -> "Ensemble":
    """Verify and load an exported bundle, to `predict`, `predict_proba` and `evaluate`.

    Args:
        batch_size: examples in a forward pass.
        precision: fp32, bf16, or auto (bf16 if the device has hardware support for it).

    Raises:
        ConfigError: no such precision, or a batch size below 1.
        IntegrityError: the bundle is incomplete or was changed.
    """
    from ensemble.inference.ensemble import Ensemble

    return Ensemble.load(folder, batch_size, precision)


def sample_data(
    folder: str | Path, train_rows: int = 600, dev_rows: int = 300, seed: int = 0
) -> Path:
    """Write a generated data set with the paper's three tasks, to try things out. Return its
    folder.

    Raises:
        ConfigError: `folder` cannot be written to.
    """
    from trainable.data.synthetic import write_sample

    write_sample(Path(folder), seed, train_rows, dev_rows)
    return Path(folder)


def __getattr__(name: str) -> Any:
    """Import what is slow only when used: `__version__`, `sweep`, `Sweep`, `Choice`."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("ensweep")
    if name in ("sweep", "Sweep", "Choice"):
        from ensweep import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, including those that `__getattr__` imports, for completion."""
    return __all__
