"""Bundles whose members answer variously."""

from pathlib import Path

from ensemble.bundle.format import FACTS
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest

TASKS = ["sentiment", "paraphrase", "similarity"]


def vouch(folder: Path) -> None:
    """Make the manifest fit what the folder holds now."""
    (folder / MANIFEST).unlink()
    write_manifest(folder, FACTS)
