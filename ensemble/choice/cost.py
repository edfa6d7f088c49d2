"""The cost of running candidates. An encoder used by several tasks or members is counted once;
predictions added from a file (`ensemble.candidates.external`) cost nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from ensemble.candidates.pool import Candidate


@dataclass(frozen=True)
class Cost:
    """Computes costs in parameters of the distinct encoders and heads, or in candidates if the
    parameters of one are not recorded, so that all costs of a pool have the same unit."""

    is_in_parameters: bool

    @classmethod
    def of_pool(cls, candidates: Iterable[Candidate]) -> "Cost":
        """Return the cost in the unit in which all candidates of a pool can be compared."""
        return cls(all(c.num_parameters for c in candidates if not c.is_added))

    def saved(self, candidate: Candidate, others: Iterable[Candidate]) -> int:
        """Return how much the cost falls if the candidate is removed and the others remain."""
        if candidate.is_added:
            return 0
        if not self.is_in_parameters:
            return 1
        is_shared = candidate.encoder and any(c.encoder == candidate.encoder for c in others)
        return candidate.num_parameters - (candidate.num_encoder_parameters if is_shared else 0)

    def __call__(self, candidates: Iterable[Candidate]) -> int:
        """Return the cost of running the candidates together."""
        distinct = {candidate for candidate in candidates if not candidate.is_added}
        if not self.is_in_parameters:
            return len(distinct)
        encoders = {c.encoder: c.num_encoder_parameters for c in distinct if c.encoder}
        heads = sum(c.num_parameters - encoders.get(c.encoder, 0) for c in distinct)
        return sum(encoders.values()) + heads
