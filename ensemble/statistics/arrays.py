"""What candidates' predictions, labels and the rows of dev are kept in."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
"""Which rows of dev, or which candidates."""
