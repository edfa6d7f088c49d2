"""How often faults are tested: `ENSWEEP_FAULTS_SCALE`.

1 in `make test`, 10 in `make faults`, 100 in `make faults-nightly`.
"""

import os

SCALE = int(os.environ.get("ENSWEEP_FAULTS_SCALE", "1"))
MANY = SCALE > 1


def how_often(faults: int, nightly: int, test: int = 1) -> int:
    """The number of repetitions at this scale."""
    if SCALE >= 100:
        return nightly
    return faults if MANY else test
