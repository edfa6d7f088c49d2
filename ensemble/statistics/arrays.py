"""Array types of predictions, labels and row masks."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
"""A boolean mask of dev rows, or of candidates."""
