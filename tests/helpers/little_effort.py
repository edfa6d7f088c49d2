"""For tests of what does not depend on how often choosing an ensemble repeats itself."""

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
