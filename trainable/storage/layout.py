"""Names of the folders and files below a storage folder that more than one package uses.

STORAGE/.shared/  STORAGE/SWEEP/{trials/TRIAL/attempts/0001.json, trials/.locks, preparation, stop}
"""

SHARED = ".shared"
"""What trials of all sweeps share: encoders, teachers, soft labels."""

ENCODERS = "frozen"
"""In the shared folder: encoders as they were pretrained, which trials' kept weights link to."""

TRIALS = "trials"
"""A sweep's trials, a folder each."""

PREPARATION = "preparation"
"""A sweep's attempts at making what its trials share."""

STOP_FILE = "stop"
"""There while all that runs in the sweep is to stop."""

STOP_REQUEST = "stop-request"
"""There once somebody has asked who drives the sweep, or trains, to stop: `ensweep stop`."""

UNDER_WAY = "under-way.json"
"""In a trial's folder while a process of a sweep runs it: its progress."""

ATTEMPTS = "attempts"
"""What each process's try at a trial used."""

RECORDS = ("*", "epochs/*", "predictions/*", f"{ATTEMPTS}/*")
"""The files of a trial's folder that are copied to every machine with the trial."""

WHAT_IS_KEPT = ("weights/*/manifest.json", "checkpoint/*/manifest.json")
"""By these it knows what there is beside, to be fetched."""

LOCKS = ".locks"
"""Beside the trials: a lock for each, held by the process that runs it."""

QUARANTINE = "quarantine"
"""Below a trial's `checkpoint`: what was damaged and put aside."""
