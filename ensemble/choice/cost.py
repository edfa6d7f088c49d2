"""The cost of running candidates. An encoder used by several tasks or members is counted once;
predictions added from a file (`ensemble.candidates.external`) cost nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from ensemble.candidates.pool import Candidate
from mlflow_setup.errors import ConfigError


@dataclass(frozen=True)
class Cost:
    """Computes costs in parameters of the distinct encoders and heads, or in candidates if the
    parameters of one are not recorded, so that all costs of a pool have the same unit."""

    unrecorded: tuple[str, ...] = ()  # labels of candidates whose parameters are not recorded

    @classmethod
    def of_pool(cls, candidates: Iterable[Candidate]) -> "Cost":
        """Return the cost in the unit in which all candidates of a pool can be compared."""
        unknown = (c.label for c in candidates if not (c.num_parameters or c.is_added))
        return cls(tuple(sorted(unknown)))

    @property
    def is_in_parameters(self) -> bool:
        return not self.unrecorded

    def require_parameters(self) -> None:
        """Raise ConfigError if costs are not in parameters."""
        if self.unrecorded:
            raise ConfigError(
                f"--max-cost: the parameters of {self.unrecorded[0]} are not recorded",
                fix="limit the number of members instead: --max-members",
            )

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
