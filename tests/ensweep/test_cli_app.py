"""The command line: help, errors, exit codes, bundles."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app, main

RUNNER = CliRunner()
LIGHT = {"ensweep", "mlflow_setup"}
HEAVY = {
    "torch", "ray", "mlflow", "optuna", "transformers", "pandas", "numpy", "pyarrow", "scipy",
    "sklearn", "matplotlib", "pydantic", "trainable", "ensemble", "search",
}  # fmt: skip


def _run(*arguments: str | Path) -> tuple[int, str, str]:
    command = [
        sys.executable,
        "-c",
        "from ensweep.cli.app import main; main()",
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['ensweep', '--help']\n"
        "from ensweep.cli.app import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    assert modules >= LIGHT
    assert modules & HEAVY == set()


def test_help_names_the_nouns_and_the_exit_codes() -> None:
    _, out, _ = _run("--help")
    for word in ("train", "sweep", "leaderboard", "ensemble", "export", "predict", "Exit codes"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "b9"], 2, "no recipe 'b9'"),
        (["config", "show", "b3", "optim.Lr=1"], 2, r"did you mean optim.lr"),
        (["train", "b3"], 3, "data.dir is not set"),
        (["train", "b3", "--data-dir", "/nowhere", "model.encoder=minilm"], 3, "cannot be read"),
        (["verify", "/nowhere"], 6, "there is no such folder\nfix: name a bundle"),
        (["sweep", "selectiv"], 2, "selective"),
    ],
)
def test_errors_have_one_message_a_fix_and_their_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensweep.cli.app.narrow_umask", lambda: None)  # it is the process's
    monkeypatch.setattr(sys, "argv", ["ensweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_config_show_gives_the_learning_rate_at_the_end() -> None:
    settings = ["optim.lr_decay=0", "optim.lr_decay_per_epoch=4e-7", "train.num_epochs=20"]
    shown = CliRunner().invoke(app, ["config", "show", "b3", *settings])
    assert "learning rate in epoch 20 of fine-tuning: 2.4e-06" in shown.output
    as_json = CliRunner().invoke(app, ["config", "show", "probe", "--json"])
    assert json.loads(as_json.output)["final_lr"] is None


def test_config_show_tells_where_each_value_came_from() -> None:
    result = RUNNER.invoke(
        app, ["config", "show", "b3", "optim.lr=2e-5", "--json"], env={"ENSWEEP_SEED": "7"}
    )
    config = json.loads(result.stdout)["config"]
    assert config["optim.lr"] == {"value": 2e-5, "origin": "command line"}
    assert config["seed"] == {"value": 7, "origin": "env ENSWEEP_SEED"}
    assert config["loss.mnr.enabled"] == {"value": True, "origin": "recipe b3"}
    assert config["data.train_fraction"] == {"value": 1.0, "origin": "default"}


def test_recipes_are_listed_with_a_line_each() -> None:
    result = RUNNER.invoke(app, ["recipes"])
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert {"baseline", "b1", "b2", "b3", "b4", "b3-no-mnr", "baseline-lp-ft"} <= set(names)
    assert all(len(line.split()) > 3 for line in result.stdout.splitlines())


def test_train_prints_scores_and_goes_on_where_it_ended(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = [
        "train", "baseline", "--data-dir", str(tiny_data), "--output", str(tmp_path / "t"),
        f"model.encoder={tiny_encoder}", "train.num_epochs=1", "--json",
        "--storage", str(tmp_path),
    ]  # fmt: skip
    first = RUNNER.invoke(app, arguments)
    content = json.loads(first.stdout)
    assert content["outcome"] == "finished"
    assert content["best_epoch"] == 1
    assert RUNNER.invoke(app, arguments).stdout == first.stdout


def test_ensemble_and_leaderboard_of_a_sweep(tiny_runs: Path) -> None:
    shown = RUNNER.invoke(app, ["ensemble", "--storage", str(tiny_runs)])
    for word in (
        "sentiment",
        "best single",
        "simple",
        "selective",
        "encoder",
        "search has used",
    ):
        assert word in shown.stdout
    board = RUNNER.invoke(app, ["leaderboard", "--storage", str(tiny_runs), "--json"])
    assert {row["trial"] for row in json.loads(board.stdout)["trials"]} == {
        "0001-baseline", "0002-b3",
    }  # fmt: skip


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors of the user are shown without a traceback; bugs are not."""
    monkeypatch.setattr(sys, "argv", ["ensweep", "recipes"])
    monkeypatch.setattr("trainable.config.packaged.Packaged.names", lambda packaged: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_full_disk_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(packaged: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/file")

    monkeypatch.setattr(sys, "argv", ["ensweep", "recipes"])
    monkeypatch.setattr("trainable.config.packaged.Packaged.names", full)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 75
    text = capsys.readouterr().err
    assert "the disk is full" in text
    assert "/somewhere/file" in text
    assert "fix: free some space" in text


def test_a_place_that_may_not_be_read_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ensweep", "data", "check", "x" * 300])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert f"{'x' * 300}: File name too long\nfix: name a place" in text
