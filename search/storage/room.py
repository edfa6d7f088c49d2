"""What a sweep needs of a disk that is full, to be said when it stops."""

import shutil

from mlflow_setup.filesystem.atomic import num_bytes
from search.storage.history import SweepFolder


def shortage(folder: SweepFolder, num_left: int) -> str:
    """`1.2 of 64.0 MB are free on the sweep's disk; 5 trials that are left need about 15.5 MB`.

    About, because a trial is taken to need what the largest has taken so far.
    """
    disk = shutil.disk_usage(folder.path)
    said = f"{disk.free / 1e6:.1f} of {disk.total / 1e6:.1f} MB are free on the sweep's disk"
    largest = max((num_bytes(trial.path) for trial in folder.trial_folders()), default=0)
    if not largest or not num_left:
        return said
    return f"{said}; {num_left} trials that are left need about {num_left * largest / 1e6:.1f} MB"
