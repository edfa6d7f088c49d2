"""Keys of a trial's Tune configuration and of its reports to Tune."""

EPOCH = "epoch"
"""Number of completed epochs."""

NUM_EPOCHS = "num_epochs"
"""Number of epochs that the trial runs for."""

NUM_PROBE_EPOCHS = "num_probe_epochs"
"""Number of first epochs that train only the heads."""

VALUE = "overall"
"""The epoch's overall score."""

BEST_VALUE = "best_overall"
"""The best overall score so far, which a sweep maximises."""

DIVERGED = "diverged"
"""1 for a trial that diverged or failed, else 0."""

PROBLEM = "problem"
"""Why the sweep cannot continue; empty if it can."""

AVOIDED = "avoided"
"""IDs of the nodes on which the trial must not run."""

NO_ROOM = "no_room"
"""1 if the problem is a full disk, else 0."""

EXCLUSIVE = "exclusive"
"""Whether the trial gets a machine of its own."""
