"""Run tests against a mutant in a forked process, so that torch is imported only once.

The parent imports third-party packages only; each fork imports the project, with the mutant in
place of its module, and the tests.
"""

import importlib
import importlib.abc
import importlib.util
import io
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TextIO

import pytest

_MEMORY = 4 << 30
"""Bytes that a fork may allocate, because a mutant may append to a list forever."""
_PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler")


@dataclass(frozen=True)
class Baseline:
    """The result of the tests without a mutant."""

    failed: list[str]
    cpu_seconds: float
    third_party: list[str]


@dataclass(frozen=True)
class Verdict:
    """The result of the tests with a mutant."""

    outcome: str  # killed, survived or timeout
    by: str  # the first test that failed, or another reason
    seconds: float


def baseline(root: Path, tests: Sequence[str], ignored: Sequence[str] = ()) -> Baseline:
    """Run tests without a mutant, in a fork."""
    ended = _forked(root, tests, ignored, None, 3600)
    failed = ended.reported("failed")
    if ended.exit_code != 0 and not failed:
        failed = [f"{' '.join(tests)} cannot be run"]
    return Baseline(failed, ended.cpu_seconds, ended.reported("imported"))


def preload(names: Iterable[str]) -> None:
    """Import third-party modules; those that cannot be imported separately are skipped."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)


def judge(
    root: Path,
    module: str,
    source: str,
    tests: Sequence[str],
    ignored: Sequence[str],
    cpu_seconds: float,
) -> Verdict:
    """Run tests with `source` as the module, until the first failure or the time limit.

    Args:
        cpu_seconds: the limit of processor time, which does not depend on other load. The limit of
            wall time is ten times as long, plus a minute.
    """
    started = time.monotonic()
    ended = _forked(root, tests, ignored, _Finder(root, module, source), cpu_seconds)
    seconds = time.monotonic() - started
    if ended.exit_code is None:
        return Verdict("timeout", "the time limit", seconds)
    if ended.exit_code == 0:
        return Verdict("survived", "", seconds)
    return Verdict("killed", (ended.reported("failed") or ["it cannot be imported"])[0], seconds)


@dataclass(frozen=True)
class _Ended:
    """The result of a fork: pytest's exit code (None: the time limit) and the lines it reported."""

    exit_code: int | None
    cpu_seconds: float
    lines: list[str]

    def reported(self, key: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.lines if line.startswith(f"{key} ")]


def _forked(
    root: Path,
    tests: Sequence[str],
    ignored: Sequence[str],
    finder: "_Finder | None",
    cpu_seconds: float,
) -> _Ended:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as report:
        deadline = time.monotonic() + 10 * cpu_seconds + 60
        child = os.fork()
        if child == 0:
            _child(root, tests, ignored, finder, cpu_seconds, report)
        found = 0
        while not found and time.monotonic() < deadline:
            found, status, usage = os.wait4(child, os.WNOHANG)
            time.sleep(0.0 if found else 0.02)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its own children as well
        if not found:
            _, status, usage = os.wait4(child, 0)
        is_late = not found or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 70
        report.seek(0)
        lines = report.read().splitlines()
        return _Ended(None if is_late else code, usage.ru_utime + usage.ru_stime, lines)


def _child(
    root: Path,
    tests: Sequence[str],
    ignored: Sequence[str],
    finder: "_Finder | None",
    cpu_seconds: float,
    report: TextIO,
) -> None:
    """Run the tests in the fork, and end it with pytest's exit code."""
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(root)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        sys.stdout = sys.stderr = io.StringIO()
        seconds = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime + cpu_seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.path.insert(0, str(root))
        if finder is not None:
            sys.meta_path.insert(0, finder)
        skips = [f"--ignore={path}" for path in ignored]
        code = int(pytest.main([*_PYTEST, *skips, *tests], plugins=[_FailureReporter(report)]))
        if finder is None:
            report.writelines(f"imported {name}\n" for name in _third_party(root))
        report.flush()
    finally:
        os._exit(code)


class _FailureReporter:
    """A pytest plugin that writes a line for each failed test."""

    def __init__(self, report: TextIO) -> None:
        self.stream = report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.stream.write(f"failed {report.nodeid}\n")
            self.stream.flush()


class _Finder(importlib.abc.MetaPathFinder):
    """Imports the mutant in place of its module."""

    def __init__(self, root: Path, module: str, source: str) -> None:
        self.path = root.joinpath(*module.split(".")).with_suffix(".py")
        self.module, self.source = module, source

    def find_spec(
        self, name: str, path: object, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.module:
            return None
        loader = _Loader(name, str(self.path))
        loader.source = self.source
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


class _Loader(SourceFileLoader):
    source: str

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


def _third_party(root: Path) -> list[str]:
    """The imported modules in site-packages, in the order of their import."""
    return [
        name
        for name, module in sys.modules.items()
        if "site-packages" in str(getattr(module, "__file__", None) or "")
        and root not in Path(str(module.__file__)).parents
        and not name.startswith("_pytest")
    ]
