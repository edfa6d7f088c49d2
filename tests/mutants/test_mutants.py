"""Mutants of a source, and a mutation run on a small project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutators import mutants_of

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b < c", {"a = b <= c"}),
        ("a = b * c", {"a = b + c"}),
        ("a = b and c", {"a = b or c"}),
        ("a = not b", {"a = b"}),
        ("a = b if c else d", {"a = b if not c else d"}),
        ("a = 3", {"a = 4", "a = 2"}),
        ("a = True", {"a = False"}),
        ("a = relu(b)", {"a = b"}),
        ("a = b.square()", {"a = b"}),
        ("a = dropout(b)", {"a = b"}),
        ("a = max(b, c)", {"a = min(b, c)", "a = b"}),
        ("a = f(b, c)", {"a = f(c, b)"}),
        ("a = f(b, key=c)", {"a = f(b)"}),
        ("a = zip(b, strict=c)", set()),
        ("a.b = c", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("f(b)", {"pass"}),
        ('"""3 < 4"""', set()),
        ("assert a < b", set()),
        ("raise E(a < b)", set()),
        ("a: F[3] = b", set()),
        ('a = f"{b + 1}"', set()),
    ],
)
def test_mutants_of_a_statement(source: str, expected: set[str]) -> None:
    assert {mutant.source for mutant in mutants_of(source)} == expected


def test_the_key_of_a_mutant_does_not_depend_on_its_line() -> None:
    source = "class A:\n    def f(self):\n        if self.b:\n            return 0 < self.c\n"
    found = {mutant.key for mutant in mutants_of(source)}
    assert "A.f: return 0 < self.c -> return 0 <= self.c" in found
    assert "A.f: if self.b: -> if not self.b:" in found
    moved = mutants_of(f"import x\n\n\n{source}")
    assert {mutant.key for mutant in moved} == found


MODULE = """
def add(x, y):
    return x + y

def untested(x, y):
    return x < y

def clear(xs):
    while xs:
        xs.pop()
"""
TEST = """
from package.sums import add, clear

def test_add():
    assert add(1, 2) == 3

def test_clear():
    clear([1, 2])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("package", "tests/package"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "package" / "sums.py").write_text(MODULE)
    (tmp_path / "tests" / "package" / "test_sums.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return tmp_path


def _run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), "--root", str(project), "--module", "package.sums"]
    command += ["--results", str(project / "results.jsonl"), "--seconds", "1", *words]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _outcomes(project: Path) -> dict[str, str]:
    lines = (project / "results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {f"{one['function']}: {one['after']}": one["outcome"] for one in found}


def test_a_run_reports_survivors_and_continues_from_stored_results(project: Path) -> None:
    first = _run(project, "--number", "100")
    assert first.returncode == 1, first.stderr
    outcomes = _outcomes(project)
    assert outcomes["add: return x - y"] == "killed"
    assert outcomes["add: return None"] == "killed"
    assert outcomes["untested: return x <= y"] == "survived"
    assert outcomes["clear: pass"] == "timeout"  # it never ends
    survived = sum(outcome == "survived" for outcome in outcomes.values())
    assert first.stdout.splitlines()[-1].endswith(f"| {survived} | 0 |")

    again = _run(project, "--number", "100")
    assert again.stdout.splitlines() == first.stdout.splitlines()[-4:]  # only the table
    test = project / "tests" / "package" / "test_sums.py"
    test.write_text(
        TEST.replace("add, ", "add, untested, ") + "\n\ndef test_untested():\n"
        "    assert [untested(x, 3) for x in (2, 3)] == [True, False]\n"
    )
    stronger = _run(project, "--number", "100", "--survivors")
    assert "untested: return x < y -> return x <= y" in stronger.stdout
    assert _outcomes(project)["untested: return x <= y"] == "killed"


def test_a_run_stops_if_tests_fail_without_a_mutant(project: Path) -> None:
    (project / "tests" / "package" / "test_sums.py").write_text(
        "def test_it():\n    assert False\n"
    )
    done = _run(project, "--number", "1")
    assert done.returncode == 1
    assert "fails without a mutant" in done.stderr
