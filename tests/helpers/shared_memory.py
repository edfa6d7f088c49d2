"""Files in the machine's shared memory, and whether a process uses them."""

from pathlib import Path

import psutil

FOLDER = Path("/dev/shm")


def shared_memory() -> set[Path]:
    """The files in shared memory; empty if the system has none."""
    return {path for path in FOLDER.iterdir() if path.is_file()} if FOLDER.is_dir() else set()


def left_in_shared_memory(before: set[Path]) -> list[Path]:
    """New files that no living process has mapped or open: leaked ones."""
    new = shared_memory() - before
    return sorted(new - _in_use()) if new else []


def _in_use() -> set[Path]:
    found: set[Path] = set()
    for process in psutil.process_iter():
        try:
            found |= {Path(region.path) for region in process.memory_maps()}
            found |= {Path(file.path) for file in process.open_files()}
        except psutil.Error:
            continue
    return found
