"""Bundles whose members make different predictions."""

from pathlib import Path

from ensemble.bundle.format import FACTS
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest

TASKS = ["sentiment", "paraphrase", "similarity"]


def vouch(folder: Path) -> None:
    """Write the manifest again, to match the changed folder."""
    (folder / MANIFEST).unlink()
    write_manifest(folder, FACTS)
