"""A list of checks: each is passed, a warning, or a failure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mlflow_setup.errors import ConfigError, EnsweepError
from trainable.runtime.progress import Tally

Verdict = Literal["ok", "note", "error"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. An error: the sweep would waste money."""

    name: str
    verdict: Verdict
    found: str
    fix: str | None = None
    exit_code: int = 0


@dataclass
class Checks:
    """What was looked at, in that order."""

    checks: list[Check] = field(default_factory=list)

    @property
    def errors(self) -> list[Check]:
        return [check for check in self.checks if check.verdict == "error"]

    @property
    def exit_code(self) -> int:
        """0, or that of the first error."""
        return self.errors[0].exit_code if self.errors else 0

    def look(self, name: str, how: Callable[[], str]) -> None:
        """Add what `how` tells, or the error that it raises; what it adds itself comes after."""
        place = len(self.checks)
        Tally(f"looking at {name}")
        try:
            check = Check(name, "ok", how())
        except EnsweepError as error:
            check = Check(name, "error", error.problem, error.fix, error.exit_code)
        self.checks.insert(place, check)

    def note(self, name: str, text: str, fix: str | None = None) -> None:
        """Add a warning."""
        self.checks.append(Check(name, "note", text, fix))

    def warn(self, name: str, text: str, fix: str | None = None) -> None:
        """Add an error that no exception was raised for."""
        self.checks.append(Check(name, "error", text, fix, ConfigError.exit_code))
