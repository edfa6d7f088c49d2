"""Names in what Tune is given for a trial and in what it is reported of one."""

EPOCH = "epoch"
"""Epochs completed."""

NUM_EPOCHS = "num_epochs"
"""Epochs that the trial runs for."""

NUM_PROBE_EPOCHS = "num_probe_epochs"
"""Of these, the first ones, which train the heads alone."""

VALUE = "overall"
"""The epoch's overall score."""

BEST_VALUE = "best_overall"
"""The best overall score so far: what a sweep maximises."""

DIVERGED = "diverged"
"""1 for every trial without a usable end, else 0."""

PROBLEM = "problem"
"""Why the sweep cannot go on; empty while it can."""

AVOIDED = "avoided"
"""Ids of nodes on which a trial is not to be started."""

NO_ROOM = "no_room"
"""1 where the problem is a disk without room."""

EXCLUSIVE = "exclusive"
"""True in the argument of a trial that is to have a machine to itself."""
