"""The errors a user can cause or mend. Each says what is wrong and, in `fix`, what to do.

The command line prints them without a traceback and leaves with `exit_code`:
2 usage or configuration, 3 data, 4 done in part, 5 nothing usable, 6 integrity.
"""


class EnsweepError(ValueError):
    """A problem that is the input's, not the program's.

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
    """The work is done in part: some trials failed, or the tracking server missed some of it."""

    exit_code = 4


class StorageError(PartialError, OSError):
    """An object store that cannot be read from or written to now: as a disk that is full or away,
    and it may come back."""


class NothingUsableError(EnsweepError):
    """There is nothing to go on with: no sweep, no finished run, no candidate."""

    exit_code = 5


class IntegrityError(EnsweepError):
    """A file is not what its manifest or header says it is."""

    exit_code = 6


STOPPED, INTERRUPTED = 75, 130
"""Exit codes of a sweep that can be resumed: stopped by SIGTERM or a limit, and by Ctrl-C."""
