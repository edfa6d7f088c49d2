"""Few repetitions in choosing an ensemble, for tests that do not depend on their number."""

from ensemble.statistics.effort import Effort

LITTLE = Effort(
    num_folds=3,
    num_repeats=1,
    num_rounds=8,
    num_bags=2,
    bag_rounds=4,
    num_replicates=300,
    curve_replicates=60,
)
