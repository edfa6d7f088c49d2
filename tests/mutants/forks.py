"""Tests run in a fork that has a mutant in a module's place, so that torch is imported once.

A fork inherits what is imported: third-party packages only. The project and its tests are imported
in each fork anew, the mutant among them.
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
"""Bytes that a fork may take beside what it inherits: a mutant may append for ever."""
_PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler")


@dataclass(frozen=True)
class Baseline:
    """The tests without a mutant: what fails, what they take, and what they import."""

    failed: list[str]
    cpu_seconds: float
    third_party: list[str]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    outcome: str  # killed, survived or timeout
    by: str  # the first test that failed, or what else ended it
    seconds: float


def baseline(root: Path, tests: Sequence[str], ignored: Sequence[str] = ()) -> Baseline:
    """Run tests as they are, in a fork."""
    ended = _forked(root, tests, ignored, None, 3600)
    failed = ended.told("failed")
    if ended.exit_code != 0 and not failed:
        failed = [f"{' '.join(tests)} cannot be run"]
    return Baseline(failed, ended.cpu_seconds, ended.told("imported"))


def preload(names: Iterable[str]) -> None:
    """Import third-party modules, as far as each can be imported by itself."""
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
    """Run tests with `source` for the module, until the first failure or the time limit.

    Args:
        cpu_seconds: of the processor, so that a busy machine changes nothing; of the clock it may
            be ten times as many and a minute.
    """
    started = time.monotonic()
    ended = _forked(root, tests, ignored, _Finder(root, module, source), cpu_seconds)
    seconds = time.monotonic() - started
    if ended.exit_code is None:
        return Verdict("timeout", "the time limit", seconds)
    if ended.exit_code == 0:
        return Verdict("survived", "", seconds)
    return Verdict("killed", (ended.told("failed") or ["it cannot be imported"])[0], seconds)


@dataclass(frozen=True)
class _Ended:
    """A fork that has ended: pytest's exit code, None at the time limit, and what it told."""

    exit_code: int | None
    cpu_seconds: float
    lines: list[str]

    def told(self, what: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.lines if line.startswith(f"{what} ")]


def _forked(
    root: Path,
    tests: Sequence[str],
    ignored: Sequence[str],
    finder: "_Finder | None",
    cpu_seconds: float,
) -> _Ended:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        deadline = time.monotonic() + 10 * cpu_seconds + 60
        child = os.fork()
        if child == 0:
            _child(root, tests, ignored, finder, cpu_seconds, told)
        found = 0
        while not found and time.monotonic() < deadline:
            found, status, usage = os.wait4(child, os.WNOHANG)
            time.sleep(0.0 if found else 0.02)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what it has started
        if not found:
            _, status, usage = os.wait4(child, 0)
        is_late = not found or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 70
        told.seek(0)
        lines = told.read().splitlines()
        return _Ended(None if is_late else code, usage.ru_utime + usage.ru_stime, lines)


def _child(
    root: Path,
    tests: Sequence[str],
    ignored: Sequence[str],
    finder: "_Finder | None",
    cpu_seconds: float,
    told: TextIO,
) -> None:
    """Ends the process with pytest's exit code."""
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
        code = int(pytest.main([*_PYTEST, *skips, *tests], plugins=[_Teller(told)]))
        if finder is None:
            told.writelines(f"imported {name}\n" for name in _third_party(root))
        told.flush()
    finally:
        os._exit(code)


class _Teller:
    """Tells of each failure."""

    def __init__(self, told: TextIO) -> None:
        self.told = told

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.told.write(f"failed {report.nodeid}\n")
            self.told.flush()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module: the mutant."""

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
    """What is imported and lies in site-packages, in the order of its import."""
    return [
        name
        for name, module in sys.modules.items()
        if "site-packages" in str(getattr(module, "__file__", None) or "")
        and root not in Path(str(module.__file__)).parents
        and not name.startswith("_pytest")
    ]
