"""Names of folders and files in a storage folder that several packages use.

STORAGE/.shared/  STORAGE/SWEEP/{trials/TRIAL/attempts/0001.json, trials/.locks, preparation, stop}
"""

SHARED = ".shared"
"""Folder that the trials of all sweeps share: encoders, teachers, soft labels."""

ENCODERS = "frozen"
"""Folder, in the shared one, of frozen encoders, which the kept weights of trials link to."""

TRIALS = "trials"
"""Folder, in a sweep's, with one folder per trial."""

PREPARATION = "preparation"
"""Folder, in a sweep's, of the records of attempts to make what its trials share."""

STOP_FILE = "stop"
"""File in a sweep's folder; while it exists, all processes of the sweep stop."""

STOP_REQUEST = "stop-request"
"""File that `ensweep stop` writes, to ask the process that drives a sweep or trains to stop."""

PROGRESS_FILE = "under-way.json"
"""File in a trial's folder with its progress, while a process of a sweep runs it."""

ATTEMPTS = "attempts"
"""Folder, in a trial's, with one record per process that has run it."""

RECORDS = ("*", "epochs/*", "predictions/*", f"{ATTEMPTS}/*")
"""The files of a trial's folder that every machine copies with the trial."""

MANIFESTS = ("weights/*/manifest.json", "checkpoint/*/manifest.json")
"""Files that are copied as well, to know which weights and checkpoints can be fetched."""

LOCKS = ".locks"
"""Folder, in that of the trials, with a lock per trial, held by the process that runs it."""

QUARANTINE = "quarantine"
"""Folder, in a trial's `checkpoint`, of damaged checkpoints."""
