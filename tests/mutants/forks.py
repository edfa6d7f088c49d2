"""Tests run in a fork that has a mutant in a module's place, so that torch is imported once.

A fork inherits what is imported: third-party packages only. The project and its tests are imported
in each fork anew, the mutant among them.
"""

import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

_MEMORY = 4 << 30
"""Bytes that a fork may take beside what it inherits: a mutant may append for ever."""
_PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler")


@dataclass(frozen=True)
class Baseline:
    """The tests without a mutant: what they take, and what they import."""

    exit_code: int
    cpu_seconds: float
    third_party: list[str]
    output: str


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    outcome: str  # killed, survived or timeout
    by: str  # the first test that failed, or what else ended it
    seconds: float


def baseline(root: Path, tests: Sequence[str], ignored: Sequence[str] = ()) -> Baseline:
    """Run tests in a process of their own, as they are."""
    command = [sys.executable, __file__, str(root), json.dumps([list(tests), list(ignored)])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    exit_code, cpu_seconds, third_party = json.loads(done.stdout.splitlines()[-1])
    return Baseline(exit_code, cpu_seconds, third_party, done.stdout)


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
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(root, module, source, tests, ignored, cpu_seconds, writing)
    os.close(writing)
    status = _wait(child, started + 10 * cpu_seconds + 60)
    with os.fdopen(reading) as said:
        failed = said.read().strip()
    seconds = time.monotonic() - started
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Verdict("timeout", "the time limit", seconds)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return Verdict("survived", "", seconds)
    return Verdict("killed", failed.split("\n")[0] or "it cannot be imported", seconds)


def _wait(child: int, deadline: float) -> int | None:
    """The status of the child, which is ended with all that it started; None: at the deadline."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if not found and time.monotonic() < deadline:
            time.sleep(0.02)
            continue
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not found:
            os.waitpid(child, 0)
        return status if found else None


def _child(
    root: Path,
    module: str,
    source: str,
    tests: Sequence[str],
    ignored: Sequence[str],
    cpu_seconds: float,
    writing: int,
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
        sys.meta_path.insert(0, _Finder(root, module, source))
        code = _run(root, tests, ignored, [_Teller(writing)])
    finally:
        os._exit(code)


def _run(
    root: Path, tests: Sequence[str], ignored: Sequence[str], plugins: list[object] | None = None
) -> int:
    """pytest in this process; its exit code."""
    sys.path.insert(0, str(root))
    skips = [f"--ignore={path}" for path in ignored]
    return int(pytest.main([*_PYTEST, *skips, *tests], plugins=plugins))


class _Teller:
    """Tells of the first failure through a pipe."""

    def __init__(self, writing: int) -> None:
        self.writing = writing

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.writing, f"{report.nodeid}\n".encode())


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


def _report_baseline(root: Path, tests: Sequence[str], ignored: Sequence[str]) -> None:
    exit_code = _run(root, tests, ignored)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("\n" + json.dumps([exit_code, used.ru_utime + used.ru_stime, _third_party(root)]))


if __name__ == "__main__":
    _report_baseline(Path(sys.argv[1]), *json.loads(sys.argv[2]))
