"""The command line: help, errors, exit codes, and the resolved configuration."""

import errno
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app, main

HEAVY = {
    "torch", "ray", "mlflow", "optuna", "transformers", "pandas", "numpy", "pyarrow", "scipy",
    "sklearn", "matplotlib", "pydantic", "trainable", "ensemble", "search",
}  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['ensweep', '--help']\n"
        "from ensweep.cli.app import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    assert modules >= {"ensweep", "mlflow_setup"}
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "b9"], 2, "no recipe 'b9'"),
        (["config", "show", "b3", "optim.Lr=1"], 2, r"did you mean optim.lr"),
        (["train", "b3"], 3, "data.dir is not set"),
        (["train", "b3", "--data-dir", "/nowhere", "model.encoder=minilm"], 3, "no such folder"),
        (["verify", "/nowhere"], 6, "there is no such folder\nfix: name a bundle"),
        (["sweep", "selectiv"], 2, "selective"),
    ],
)
def test_errors_have_a_message_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensweep.cli.app.narrow_umask", lambda: None)  # the umask of this process
    monkeypatch.setattr(sys, "argv", ["ensweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_config_show_has_the_final_learning_rate() -> None:
    settings = ["optim.lr_decay=0", "optim.lr_decay_per_epoch=4e-7", "train.num_epochs=20"]
    shown = CliRunner().invoke(app, ["config", "show", "b3", *settings])
    assert "learning rate in epoch 20 of fine-tuning: 2.4e-06" in shown.output
    as_json = CliRunner().invoke(app, ["config", "show", "probe", "--json"])
    assert json.loads(as_json.output)["final_lr"] is None


def test_config_show_has_the_origin_of_each_value() -> None:
    result = CliRunner().invoke(
        app, ["config", "show", "b3", "optim.lr=2e-5", "--json"], env={"ENSWEEP_SEED": "7"}
    )
    config = json.loads(result.stdout)["config"]
    assert config["optim.lr"] == {"value": 2e-5, "origin": "command line"}
    assert config["seed"] == {"value": 7, "origin": "env ENSWEEP_SEED"}
    assert config["loss.mnr.enabled"] == {"value": True, "origin": "recipe b3"}
    assert config["data.train_fraction"] == {"value": 1.0, "origin": "default"}


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a user's errors are shown without a traceback."""
    monkeypatch.setattr(sys, "argv", ["ensweep", "recipes"])
    monkeypatch.setattr("trainable.config.packaged.Packaged.names", lambda packaged: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_full_disk_is_an_error_without_a_traceback(
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
