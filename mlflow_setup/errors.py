"""Errors that a user can cause or fix. Each says what is wrong and, in `fix`, what to do.

The command line prints them without a traceback and exits with `exit_code`:
2 usage or configuration, 3 data, 4 partly done, 5 nothing usable, 6 integrity.
"""


class EnsweepError(ValueError):
    """A problem with the user's input or environment, not with the program.

    `problem` names the place (file, line, key) and the offending value; `fix` is what to do next.
    """

    exit_code = 2

    def __init__(self, problem: str, *, fix: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return self.problem if self.fix is None else f"{self.problem}\nfix: {self.fix}"


class ConfigError(EnsweepError):
    """A setting, recipe, sweep or command line that cannot be used."""

    exit_code = 2


class DataError(EnsweepError):
    """Labelled or unlabelled sentences that cannot be used as they are."""

    exit_code = 3


class PartialError(EnsweepError):
    """The work is partly done: some trials failed, or MLflow did not receive all results."""

    exit_code = 4


class StorageError(PartialError, OSError):
    """An object store that cannot be read or written now; a later attempt may succeed."""


class NothingUsableError(EnsweepError):
    """There is nothing to continue with: no sweep, no finished run, no candidate."""

    exit_code = 5


class IntegrityError(EnsweepError):
    """A file is not what its manifest or header says it is."""

    exit_code = 6


STOPPED, INTERRUPTED = 75, 130
"""Exit codes of a sweep that can be resumed: stopped by SIGTERM or a limit, and by Ctrl-C."""
