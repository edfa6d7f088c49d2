"""The command `ensweep pretrain`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, ValueError):
        raise result.exception
    return result


def words_of(encoder: Path, data: Path, output: Path) -> list[str]:
    settings = ["pretrain.max_steps=3", "pretrain.batch_size=16", "train.precision=fp32"]
    place = ["--data-dir", str(data), "--output", str(output)]
    return ["pretrain", "baseline", *place, f"model.encoder={encoder}", *settings]


def test_it_writes_an_encoder_for_training(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    result = invoke(*words_of(tiny_encoder, tiny_data, tmp_path / "e"))
    assert result.exit_code == 0
    assert "loss on held-out text" in result.stdout
    assert "step 3/3" in result.stderr
    trained = invoke(
        *("train", "baseline", "--data-dir", str(tiny_data), "--output", str(tmp_path / "t")),
        *("--storage", str(tmp_path)),
        *(f"model.encoder={tmp_path / 'e'}", "train.num_epochs=1", "train.precision=fp32"),
        *("train.stages=[probe, finetune]", "probe.num_epochs=2"),
    )
    assert trained.exit_code == 0, trained.stderr
    assert "epoch 1/3: " in trained.stderr
    assert "epoch 3/3: " in trained.stderr


def test_json(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(*words_of(tiny_encoder, tiny_data, tmp_path / "e"), "--json")
    content = json.loads(result.stdout)
    assert content["num_steps"] == 3
    assert [step for step, _ in content["held_out"]] == [0, 3]


def test_an_existing_output_is_refused(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        invoke(*words_of(tiny_encoder, tiny_data, tmp_path))
