"""Shell completion."""

from pathlib import Path

import pytest
from past_sweep import Past
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.schema import Outcome


def offered(line: str) -> list[str]:
    """The completions, requested as bash does: the words so far, and the index of the current
    one."""
    words = line.split(" ")
    environment = {
        "_ENSWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = CliRunner().invoke(app, [], prog_name="ensweep", env=environment)
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("ensweep train b3-no-m", ["b3-no-mnr"]),
        ("ensweep recipes show b", ["b3", "baseline"]),
        ("ensweep sweep sel", ["selective"]),
        ("ensweep train b3 optim.l", ["optim.lr=", "optim.lr_decay="]),
        ("ensweep settings loss.mnr.w", ["loss.mnr.weight"]),
        ("ensweep gc --storage STORAGE ", ["s"]),
        ("ensweep stop --storage STORAGE ", ["s"]),
        ("ensweep export --storage STORAGE --runs sentiment=", ["sentiment=0001"]),
        ("ensweep export --storage STORAGE --runs sentiment=0001,", ["sentiment=0001,0002"]),
        ("ensweep dele", ["delete"]),
    ],
)
def test_names_of_ours_are_offered(line: str, some: list[str], tmp_path: Path) -> None:
    past = Past(tmp_path)
    for name in ("0001", "0002"):
        past.trial(name, (0.5,), Outcome.FINISHED)
    assert set(some) <= set(offered(line.replace("STORAGE", str(tmp_path))))


def test_nothing_is_offered_where_nothing_is(tmp_path: Path) -> None:
    assert offered(f"ensweep gc --storage {tmp_path / 'none'} ") == []
