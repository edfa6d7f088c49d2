"""A list of checks: each is passed, a warning, or a failure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mlflow_setup.errors import ConfigError, EnsweepError
from trainable.runtime.progress import Tally

Verdict = Literal["ok", "note", "error"]


@dataclass(frozen=True)
class Check:
    """The result of one check; an error means that the sweep would fail or waste money."""

    name: str
    verdict: Verdict
    found: str  # the message
    fix: str | None = None
    exit_code: int = 0


@dataclass
class Checks:
    """The results of several checks, in their order."""

    checks: list[Check] = field(default_factory=list)

    @property
    def errors(self) -> list[Check]:
        return [check for check in self.checks if check.verdict == "error"]

    @property
    def exit_code(self) -> int:
        """The exit code of the first error; 0 without errors."""
        return self.errors[0].exit_code if self.errors else 0

    def run(self, name: str, check: Callable[[], str]) -> None:
        """Run a check, and add its message or the error that it raises.

        Results that the check itself adds come after its own.
        """
        index = len(self.checks)
        Tally(f"checking {name}")
        try:
            result = Check(name, "ok", check())
        except EnsweepError as error:
            result = Check(name, "error", error.problem, error.fix, error.exit_code)
        self.checks.insert(index, result)

    def warn(self, name: str, text: str, fix: str | None = None) -> None:
        """Add a warning."""
        self.checks.append(Check(name, "note", text, fix))

    def fail(self, name: str, text: str, fix: str | None = None) -> None:
        """Add an error for which no exception was raised."""
        self.checks.append(Check(name, "error", text, fix, ConfigError.exit_code))
