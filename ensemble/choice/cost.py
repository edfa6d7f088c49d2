"""The cost of candidates in use: an encoder that serves several tasks or members is counted
for once, and predictions that were added (`ensemble.candidates.external`) cost nothing, there is
none to run."""

from collections.abc import Iterable
from dataclasses import dataclass

from ensemble.candidates.pool import Candidate


@dataclass(frozen=True)
class Cost:
    """Parameters of distinct encoders and of the heads on them; the number of candidates instead
    where one's parameters are not recorded, so that no two costs of a pool differ in their unit."""

    is_in_parameters: bool

    @classmethod
    def of_pool(cls, candidates: Iterable[Candidate]) -> "Cost":
        """The unit in which all candidates of a pool can be compared."""
        return cls(all(c.num_parameters for c in candidates if not c.is_added))

    def saved(self, candidate: Candidate, others: Iterable[Candidate]) -> int:
        """What the others cost less than they do together with the candidate, none of them."""
        if candidate.is_added:
            return 0
        if not self.is_in_parameters:
            return 1
        is_shared = candidate.encoder and any(c.encoder == candidate.encoder for c in others)
        return candidate.num_parameters - (candidate.num_encoder_parameters if is_shared else 0)

    def __call__(self, candidates: Iterable[Candidate]) -> int:
        distinct = {candidate for candidate in candidates if not candidate.is_added}
        if not self.is_in_parameters:
            return len(distinct)
        encoders = {c.encoder: c.num_encoder_parameters for c in distinct if c.encoder}
        heads = sum(c.num_parameters - encoders.get(c.encoder, 0) for c in distinct)
        return sum(encoders.values()) + heads
