"""README's tutorial, typed line by line into a shell in an empty folder, with a free port.

test_docs.py types the same lines with a tiny encoder and fewer trials.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_table import Table
from ports import free_port
from readme import ROOT, blocks, commands, not_said, tutorial

pytestmark = [pytest.mark.slow, pytest.mark.rare("test_docs.py types it with a tiny encoder")]

EXACT = ("ensweep data", "ensweep init")
"""Commands whose output is exactly that of the page."""
ENDED = "-- ended with"


class Shell:
    """A shell 100 columns wide, without a user's settings."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {
            name: value
            for name, value in os.environ.items()
            if name == "ENSWEEP_CACHE" or not name.startswith(("ENSWEEP_", "MLFLOW_TRACKING"))
        }
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=kept | {"PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, line: str) -> str:
        """Type a line, which must succeed. Returns its output, stderr included."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\nprintf '\\n%s %d\\n' '{ENDED}' $?\n")
        self.process.stdin.flush()
        printed: list[str] = []
        for output in self.process.stdout:
            if output.startswith(ENDED):
                assert output.split()[-1] == "0", f"{line}\n{''.join(printed)}"
                break
            printed.append(output)
        return "".join(printed)

    def close(self) -> None:
        """Kill the shell and its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shutil.copytree(ROOT / "docs" / "reviews", tmp_path / "docs" / "reviews")
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.mark.promise(
    "tutorial",
    "none: README's lines from a CSV to a served model, typed in an empty folder",
    "each succeeds and prints what the page shows, up to numbers and what was best; the served "
    "model answers with a label's name (MiniLM)",
)
def test_the_tutorial_prints_what_the_page_shows(shell: Shell, table: Table) -> None:
    port = str(free_port())
    num_typed, typed, printed, began = 0, "", "", time.monotonic()
    for kind, code in blocks(tutorial()):
        if kind == "sh":
            lines = commands(code.replace("8000", port))
            typed, printed = lines[0], "".join(shell.type(line) for line in lines)
            num_typed += len(lines)
            continue
        assert not_said(code, printed) == [], printed
        if typed.startswith(EXACT):
            assert set(code.splitlines()) <= set(printed.splitlines()), printed
    assert '"label": "negative"' in printed  # of "the plot is dull"
    answer = next(line for line in printed.splitlines() if line.startswith('{"predictions"'))
    (row,) = json.loads(answer)["predictions"]
    assert sum(row[f"probability_{name}"] for name in ("negative", "neutral", "positive")) > 0.99
    shell.type("kill %1")
    table.measured("lines", [num_typed], unit="typed")
    table.measured("all of them took", [(time.monotonic() - began) / 60], unit="min")
