"""Commands that read MLflow runs must not import slow modules."""

import subprocess
import sys
from pathlib import Path

import pytest
from scored_sweep import scored_sweep
from typer.testing import CliRunner

from ensemble.inference import speed
from ensweep.cli.app import app

HEAVY = {
    "torch", "transformers", "ray", "optuna", "mlflow", "sqlalchemy", "sklearn", "pandas",
    "matplotlib", "plotly", "huggingface_hub",
}  # fmt: skip
SCRIPT = """
import sys
from ensweep.cli.app import main
for command in sys.argv[1:]:
    sys.argv = ["ensweep", *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command
    print("MODULES", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_commands_that_read_runs_import_no_slow_modules(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep whose ensemble was chosen before, so that the choice and the time per sentence are
    known. Each task has one member, so that there are no plots."""
    scored_sweep(tmp_path, tiny_data)
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "_milliseconds", lambda member: 1.5)
    choose = ["ensemble", "demo", "--method", "single", "--storage", str(tmp_path)]
    first = CliRunner().invoke(app, choose)
    assert first.exit_code == 0, first.output
    commands = {
        "config show b3": {"numpy"},
        f"leaderboard demo --storage {tmp_path}": {"scipy"},
        " ".join(choose): set(),
    }
    words = [sys.executable, "-c", SCRIPT, *commands]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "logged before as MLflow run" in done.stderr
    assert first.stdout in done.stdout
    loaded = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MODULES")]
    for command, names, more in zip(commands, loaded, commands.values(), strict=True):
        assert set(names) & (HEAVY | more) == set(), command
