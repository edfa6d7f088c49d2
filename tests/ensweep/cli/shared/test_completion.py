"""Shell completion."""

from pathlib import Path

import pytest
from past_sweep import Past
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.schema import Outcome


def completions(line: str) -> list[str]:
    """Completions as requested by bash: the words so far, and the index of the last one."""
    words = line.split(" ")
    environment = {
        "_ENSWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = CliRunner().invoke(app, [], prog_name="ensweep", env=environment)
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
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
def test_commands_recipes_sweeps_settings_and_trials_are_completed(
    line: str, expected: list[str], tmp_path: Path
) -> None:
    past = Past(tmp_path)
    for name in ("0001", "0002"):
        past.trial(name, (0.5,), Outcome.FINISHED)
    assert set(expected) <= set(completions(line.replace("STORAGE", str(tmp_path))))


def test_a_missing_storage_folder_has_no_completions(tmp_path: Path) -> None:
    assert completions(f"ensweep gc --storage {tmp_path / 'none'} ") == []
