"""The loop: ends as told, keeps what it must, and goes on bit for bit after a stop or a crash."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.schema import EpochRecord, Identity, Outcome, OutcomeRecord
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.model.weight_files import read_weights
from trainable.storage.predictions import Predictions
from trainable.storage.retention import epochs_to_keep
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

IDENTITY = Identity("0001", None, "b3", {})
EPOCHS = 3


def _config(encoder: Path, data: Path, *overrides: str) -> Config:
    return resolve(
        "b3",
        [
            f"data.dir={data}",
            f"model.encoder={encoder}",
            "pretrain.enabled=false",
            "model.fcn_size=8",
            f"train.num_epochs={EPOCHS}",
            "optim.lr=1e-3",
            "batching.batch_size=8",
            "train.precision=fp32",
            *overrides,
        ],
        {},
    ).config


def _train(config: Config, folder: Path, **hooks: Callable) -> OutcomeRecord:  # type: ignore[type-arg]
    torch.set_num_threads(1)
    return train(config, folder, identity=IDENTITY, **hooks)


def _contents(folder: Path) -> dict[str, object]:
    """Everything a later reader sees, wall times left out."""
    trial = TrialFolder(folder)
    epochs = [(e.epoch, e.metrics, e.dev_train, e.flags) for e in trial.epochs()]
    weights = {epoch: read_weights(trial.weights_dir(epoch)) for epoch in trial.kept_epochs()}
    outputs = {
        (name, epoch): Predictions.read(trial.predictions_path(epoch), name).outputs.tobytes()
        for name in ("sentiment", "paraphrase", "similarity")
        for epoch in range(1, len(epochs) + 1)
    }
    raw = {
        (epoch, name): value.numpy().tobytes()
        for epoch, state in weights.items()
        for name, value in state.items()
    }
    return {"epochs": epochs, "weights": raw, "outputs": outputs}


@pytest.fixture(scope="module")
def reference(
    tiny_encoder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, dict[str, object]]:
    config = _config(tiny_encoder, tiny_data)
    folder = tmp_path_factory.mktemp("reference") / "0001"
    assert _train(config, folder).outcome is Outcome.FINISHED
    return config, _contents(folder)


@pytest.mark.parametrize("stop_before", [1, 7, 18, 19, 30, 53])
def test_stopped_anywhere_and_run_again_gives_the_same_numbers(
    reference: tuple[Config, dict[str, object]], tmp_path: Path, stop_before: int
) -> None:
    """18 steps an epoch: in mid-epoch, at its last step and at the first of the next."""
    config, expected = reference
    asked = iter(range(1, 10_000))
    stopped = _train(config, tmp_path / "t", stop=lambda: next(asked) == stop_before)
    assert stopped.outcome is Outcome.STOPPED
    assert "asked to stop in epoch" in stopped.reason
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    assert _contents(tmp_path / "t") == expected


class Crash(Exception):
    """Stands for a kill: nothing of the loop runs after it."""


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_crash_while_reporting_loses_nothing(
    reference: tuple[Config, dict[str, object]], tmp_path: Path, epoch: int
) -> None:
    config, expected = reference

    def crash(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise Crash

    with pytest.raises(Crash):
        _train(config, tmp_path / "t", report=crash)
    seen: list[int] = []
    outcome = _train(config, tmp_path / "t", report=lambda record: seen.append(record.epoch))
    assert outcome.outcome is Outcome.FINISHED
    assert seen == list(range(epoch + 1, EPOCHS + 1))
    assert _contents(tmp_path / "t") == expected


@pytest.mark.parametrize("lost", ["write_predictions", "keep_weights", "write_epoch"])
def test_crash_while_an_epoch_is_written_replays_it(
    reference: tuple[Config, dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """What the epoch had put on disk before its checkpoint is forgotten and written again."""
    config, expected = reference
    original = getattr(TrialFolder, lost)
    calls = iter(range(100))

    def crash_late(self: TrialFolder, *arguments: object) -> None:
        original(self, *arguments)
        if next(calls) == 1:
            raise Crash

    monkeypatch.setattr(TrialFolder, lost, crash_late)
    with pytest.raises(Crash):
        _train(config, tmp_path / "t")
    monkeypatch.setattr(TrialFolder, lost, original)
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    assert _contents(tmp_path / "t") == expected


def test_another_seed_gives_other_numbers(
    reference: tuple[Config, dict[str, object]],
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    _train(_config(tiny_encoder, tiny_data, "seed=1"), tmp_path / "t")
    assert _contents(tmp_path / "t")["outputs"] != reference[1]["outputs"]


def test_keeps_predictions_of_every_epoch_and_weights_of_the_best(
    reference: tuple[Config, dict[str, object]], tmp_path: Path
) -> None:
    config, _ = reference
    _train(config, tmp_path / "t")
    trial = TrialFolder(tmp_path / "t")
    records = trial.epochs()
    assert [record.epoch for record in records] == [1, 2, 3]
    assert set(trial.kept_epochs()) == epochs_to_keep(records, config.task_records())
    names = {
        "dev/overall",
        "dev/sentiment/accuracy",
        "dev/similarity/pearson",
        "dev/paraphrase/loss",
        "train/paraphrase/loss",
    }
    assert names <= set(records[0].metrics)
    assert len(records[0].metrics) <= 40
    num_sentences = 32 * 5  # of three tasks, two of them with pairs
    times = [(record.ms_per_sentence or 0.0) * num_sentences / 1000 for record in records]
    assert all(0 < time < record.seconds for time, record in zip(times, records, strict=True))
    assert trial.trial().config["optim.lr"] == 1e-3
    assert trial.trial().notes["num_parameters"] > 1000


def test_an_ended_trial_is_left_as_it_is(
    reference: tuple[Config, dict[str, object]], tmp_path: Path
) -> None:
    config, _ = reference
    first = _train(config, tmp_path / "t")
    reports: list[EpochRecord] = []
    assert _train(config, tmp_path / "t", report=reports.append) == first
    assert reports == []


def test_another_configuration_in_the_folder_is_refused(
    reference: tuple[Config, dict[str, object]],
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    asked = iter([False, True])
    _train(reference[0], tmp_path / "t", stop=lambda: next(asked))
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        _train(_config(tiny_encoder, tiny_data, "optim.lr=2e-3"), tmp_path / "t")


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = _config(tiny_encoder, tiny_data, "loss.paraphrase_weight=1e39")
    outcome = _train(config, tmp_path / "t")
    assert outcome.outcome is Outcome.DIVERGED
    assert re.match(r"the loss of \w+ is (nan|inf) in epoch 1, step 18", outcome.reason)
    assert TrialFolder(tmp_path / "t").epochs() == []


def test_data_errors_stop_before_training_unless_skipped(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    path = data / "quora-train.csv"
    path.write_text(path.read_text() + "99\tp-x\ta film\tthe film\t\n")
    with pytest.raises(DataError, match=r"quora-train\.csv:50"):
        _train(_config(tiny_encoder, data), tmp_path / "t")
    config = _config(tiny_encoder, data, "data.on_bad_rows=skip", "train.num_epochs=1")
    _train(config, tmp_path / "t")
    notes = TrialFolder(tmp_path / "t").trial().notes
    assert sum(count for what, count in notes.items() if "skipped" in what) == 1


def test_bf16_autocast_trains(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = _config(tiny_encoder, tiny_data, "train.precision=bf16", "train.num_epochs=1")
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    state = read_weights(TrialFolder(tmp_path / "t").weights_dir(1))
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}


def test_learns_the_tiny_tasks(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = _config(
        tiny_encoder,
        tiny_data,
        "optim.lr=5e-3",
        "optim.lr_decay=0",
        "train.num_epochs=12",
        "model.pooling=mean",
        "model.encoder_dropout=0",
        "model.head_dropout=0",
        "loss.simcse.enabled=false",
        "loss.mnr.enabled=false",
    )
    _train(config, tmp_path / "t")
    records = TrialFolder(tmp_path / "t").epochs()
    for name in ("sentiment", "similarity"):
        losses = [record.metrics[f"train/{name}/loss"] for record in records]
        assert np.mean(losses[-2:]) < 0.7 * losses[0], losses


def test_steps_and_evaluations_import_nothing_that_they_do_without() -> None:
    """What coordinates trials, reads Parquet, fits in closed form, prints: imported where used."""
    code = (
        "import sys, trainable.training.train, trainable.evaluation.evaluate; "
        "others = ('ray', 'mlflow', 'optuna', 'pyarrow', 'pandas', 'sklearn', 'typer', 'rich'); "
        "print([m for m in others if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_record_is_run_again_from_before_it(
    reference: tuple[Config, dict[str, object]], tmp_path: Path, damaged: int
) -> None:
    """Stopped in its last epoch, whose checkpoint is ahead of the records that are whole."""
    config, expected = reference
    asked = iter(range(1, 10_000))
    _train(config, tmp_path / "t", stop=lambda: next(asked) == 45)
    record = tmp_path / "t" / "epochs" / f"{damaged:04d}.json"
    record.write_text(record.read_text(encoding="utf-8")[:40], encoding="utf-8")
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    assert _contents(tmp_path / "t") == expected
