"""README's tutorial, typed into a shell in an empty folder, one line after the other, as printed.

With the encoder, the number of trials and the servers that a newcomer has, and in one shell, which
stays open; only the port is one that is free. `make test` types the same lines with a tiny encoder
and fewer trials (test_docs.py).
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

NEVER_VARIES = ("ensweep data", "ensweep init")
"""Commands whose output is the page's, letter by letter."""
ENDED = "-- ended with"


class Shell:
    """A newcomer's terminal, 100 columns wide, without settings of one's own."""

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
        """What a line prints, errors' stream included; it must end with 0."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\nprintf '\\n%s %d\\n' '{ENDED}' $?\n")
        self.process.stdin.flush()
        printed: list[str] = []
        for said in self.process.stdout:
            if said.startswith(ENDED):
                assert said.split()[-1] == "0", f"{line}\n{''.join(printed)}"
                break
            printed.append(said)
        return "".join(printed)

    def close(self) -> None:
        """End it and what it has started."""
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
    "each ends well and prints what the page shows, up to numbers and what was best; the served "
    "answer is a label's name (MiniLM)",
)
def test_each_line_does_what_the_page_shows(shell: Shell, table: Table) -> None:
    port = str(free_port())
    num_typed, typed, printed, began = 0, "", "", time.monotonic()
    for kind, code in blocks(tutorial()):
        if kind == "sh":
            lines = commands(code.replace("8000", port))
            typed, printed = lines[0], "".join(shell.type(line) for line in lines)
            num_typed += len(lines)
            continue
        assert not_said(code, printed) == [], printed
        if typed.startswith(NEVER_VARIES):
            assert set(code.splitlines()) <= set(printed.splitlines()), printed
    assert '"label": "negative"' in printed  # of "the plot is dull"
    answer = next(line for line in printed.splitlines() if line.startswith('{"predictions"'))
    (row,) = json.loads(answer)["predictions"]
    assert sum(row[f"probability_{name}"] for name in ("negative", "neutral", "positive")) > 0.99
    shell.type("kill %1")
    table.measured("lines", [num_typed], unit="typed")
    table.measured("all of them took", [(time.monotonic() - began) / 60], unit="min")
