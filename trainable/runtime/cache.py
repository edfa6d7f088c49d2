"""What this machine keeps to be quick: tokens, embeddings, copies of remote folders."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`ENSWEEP_CACHE`, or `ensweep` in the user's cache folder. Safe to delete at any time."""
    given = os.environ.get("ENSWEEP_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensweep"
