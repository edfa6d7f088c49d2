"""Training a trial: outcomes, kept files, and exact resumption after a stop or a crash."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from resumed import results_of
from stops import stop_at

from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.schema import EpochRecord, Identity, Outcome, OutcomeRecord
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.model.weight_files import read_weights
from trainable.storage.retention import epochs_to_keep
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

IDENTITY = Identity("0001", None, "b3", {})
EPOCHS = 3

Reference = tuple[Config, tuple[list[object], dict[object, bytes]]]
"""A configuration, and the results of its trial."""


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


@pytest.fixture(scope="module")
def reference(
    tiny_encoder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    config = _config(tiny_encoder, tiny_data)
    folder = tmp_path_factory.mktemp("reference") / "0001"
    assert _train(config, folder).outcome is Outcome.FINISHED
    return config, results_of(folder)


@pytest.mark.parametrize("step", [1, 7, 18, 19, 30, 53])
def test_a_resumed_trial_gives_the_same_results(
    reference: Reference, tmp_path: Path, step: int
) -> None:
    """An epoch has 18 steps: the trial stops before its first, last and other steps."""
    config, expected = reference
    stopped = _train(config, tmp_path / "t", stop=stop_at(step))
    assert stopped.outcome is Outcome.STOPPED
    assert "asked to stop in epoch" in stopped.reason
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    assert results_of(tmp_path / "t") == expected


class Crash(Exception):
    """Simulates a kill: training ends at once."""


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_crash_during_a_report_loses_no_epoch(
    reference: Reference, tmp_path: Path, epoch: int
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
    assert results_of(tmp_path / "t") == expected


@pytest.mark.parametrize("lost", ["write_predictions", "keep_weights", "write_epoch"])
def test_an_epoch_is_repeated_after_a_crash_while_it_is_written(
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """Its files are written before its checkpoint; they are deleted and written again."""
    config, expected = reference
    original = getattr(TrialFolder, lost)
    crashes = stop_at(2)

    def crash_after_writing(self: TrialFolder, *arguments: object) -> None:
        original(self, *arguments)
        if crashes():
            raise Crash

    monkeypatch.setattr(TrialFolder, lost, crash_after_writing)
    with pytest.raises(Crash):
        _train(config, tmp_path / "t")
    monkeypatch.setattr(TrialFolder, lost, original)
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    assert results_of(tmp_path / "t") == expected


def test_another_seed_gives_other_results(
    reference: Reference,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    _train(_config(tiny_encoder, tiny_data, "seed=1"), tmp_path / "t")
    assert results_of(tmp_path / "t")[0][0] != reference[1][0][0]


def test_every_epoch_has_metrics_and_the_best_epochs_have_weights(
    reference: Reference, tmp_path: Path
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
    num_sentences = 32 * 5  # of three tasks, two of which have pairs
    times = [(record.ms_per_sentence or 0.0) * num_sentences / 1000 for record in records]
    assert all(0 < time < record.seconds for time, record in zip(times, records, strict=True))
    assert trial.trial().config["optim.lr"] == 1e-3
    assert trial.trial().notes["num_parameters"] > 1000


def test_a_finished_trial_is_not_run_again(reference: Reference, tmp_path: Path) -> None:
    config, _ = reference
    first = _train(config, tmp_path / "t")
    reports: list[EpochRecord] = []
    assert _train(config, tmp_path / "t", report=reports.append) == first
    assert reports == []


def test_another_configuration_in_the_folder_is_refused(
    reference: Reference,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    _train(reference[0], tmp_path / "t", stop=stop_at(2))
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        _train(_config(tiny_encoder, tiny_data, "optim.lr=2e-3"), tmp_path / "t")


def test_a_trial_with_an_infinite_loss_is_diverged(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = _config(tiny_encoder, tiny_data, "loss.paraphrase_weight=1e39")
    outcome = _train(config, tmp_path / "t")
    assert outcome.outcome is Outcome.DIVERGED
    assert re.match(r"the loss of \w+ is (nan|inf) in epoch 1, step 18", outcome.reason)
    assert TrialFolder(tmp_path / "t").epochs() == []


def test_data_errors_are_raised_before_training_unless_skipped(
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


def test_a_trial_in_bf16_keeps_float32_weights(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = _config(tiny_encoder, tiny_data, "train.precision=bf16", "train.num_epochs=1")
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    state = read_weights(TrialFolder(tmp_path / "t").weights_dir(1))
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}


def test_the_training_loss_decreases(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
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


def test_large_libraries_are_imported_only_where_they_are_used() -> None:
    code = (
        "import sys, trainable.training.train, trainable.evaluation.evaluate; "
        "large = ('ray', 'mlflow', 'optuna', 'pyarrow', 'pandas', 'sklearn', 'typer', 'rich'); "
        "print([m for m in large if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("damaged", [1, 2])
def test_an_epoch_with_a_damaged_record_is_repeated(
    reference: Reference, tmp_path: Path, damaged: int
) -> None:
    """The trial was stopped in the last epoch; its checkpoint is later than the valid records."""
    config, expected = reference
    _train(config, tmp_path / "t", stop=stop_at(45))
    record = tmp_path / "t" / "epochs" / f"{damaged:04d}.json"
    record.write_text(record.read_text(encoding="utf-8")[:40], encoding="utf-8")
    assert _train(config, tmp_path / "t").outcome is Outcome.FINISHED
    assert results_of(tmp_path / "t") == expected
