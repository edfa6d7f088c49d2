"""R16: trials of a tiny BERT with losses or metrics that are not finite end as diverged."""

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fault_table import Table
from little_effort import LITTLE
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from scale import how_often
from tokenizers import Tokenizer

from ensemble.choice.request import Request, choose_ensemble
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import resolve_tracking
from search.algorithms.optuna_searcher import OptunaSearcher
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from search.driver import run as drive
from search.driver import sweep as sweeps
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder
from trainable.storage.trial_folder import TrialFolder

pytestmark = pytest.mark.slow

RARE = "cheap"
"""A word that occurs only in dev rows."""
LATER = "weights that explode in the second epoch"

Weights = dict[str, torch.Tensor]


def changed_encoder(folder: Path, encoder: Path, change: Callable[[Weights], object]) -> str:
    """Copy the encoder and change its weights."""
    shutil.copytree(encoder, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def data_with_rare_word(folder: Path, data: Path) -> str:
    """Copy the data, with the rare word only in dev rows."""
    shutil.copytree(data, folder)
    for path in folder.glob("*-train.csv"):
        path.write_text(path.read_text("utf-8").replace(RARE, "good"), "utf-8")
    for path in folder.glob("*-dev.csv"):
        path.write_text(path.read_text("utf-8").replace("good", RARE), "utf-8")
    return str(folder)


def set_rare_word_nan(encoder: Path) -> Callable[[Weights], object]:
    """Set the word's embedding to NaN."""
    row = Tokenizer.from_file(str(encoder / "tokenizer.json")).token_to_id(RARE)
    return lambda weights: weights["embeddings.word_embeddings.weight"][row].fill_(math.nan)


def zero(weights: Weights) -> None:
    for value in weights.values():
        value.zero_()


def faults(folder: Path, encoder: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Fault -> the settings that cause it."""
    simcse = {"loss.simcse.enabled": True, "loss.simcse.similarity": "cosine"}
    rare = data_with_rare_word(folder / "rare", data)
    nan_row = changed_encoder(folder / "nan-row", encoder, set_rare_word_nan(encoder))
    nan = changed_encoder(
        folder / "nan", encoder, lambda weights: weights["pooler.dense.bias"].fill_(math.nan)
    )
    found: dict[str, dict[str, Any]] = {
        "an infinite loss": {"loss.mnr.weight": 1e300},
        "a metric that is NaN": {"model.encoder": nan_row, "data.dir": rare},
        LATER: {"optim.weight_decay": 8000.0},
        "a gradient that explodes": {"loss.paraphrase_weight": 1e38},
        "a loss that is NaN": {"loss.mnr.scale": 1e300},
        "a temperature near 0": {**simcse, "loss.simcse.temperature": 1e-300},
        "an infinite penalty": {"loss.smart.enabled": True, "loss.smart.weight": 1e300},
        "weights that are NaN": {"model.encoder": nan},
    }
    draw = random.Random(16)
    for number in range(92):
        found[f"random {number}"] = random_fault(draw, simcse)
    return dict(list(found.items())[: how_often(8, 100, test=3)])


def random_fault(draw: random.Random, simcse: dict[str, Any]) -> dict[str, Any]:
    """Settings with a random extreme value, learning rate and seed."""
    size = 10 ** draw.uniform(45, 300)
    fault = draw.choice(
        [
            {"loss.mnr.weight": size},
            {"loss.mnr.scale": size},
            {**simcse, "loss.simcse.temperature": 1 / size},
            {"loss.smart.enabled": True, "loss.smart.weight": size},
        ]
    )
    return {**fault, "optim.lr": 10 ** draw.uniform(-5, -3), "seed": draw.randrange(1000)}


def sweep_of(
    folder: Path, encoder: Path, data: Path, first_trials: list[dict[str, Any]]
) -> SweepConfig:
    """A sweep of these trials and three more."""
    name = "b3-no-pretraining"
    settings = {
        "data.dir": str(data),
        "model.encoder": str(encoder),
        "train.num_epochs": 2,
        "batching.batch_size": 8,
        "train.precision": "fp32",
    }
    content = {
        "recipe": name,
        "config": settings,
        "space": {"optim.lr": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True}},
        "first_trials": [{"recipe": name, "optim.lr": 5e-4, **given} for given in first_trials],
        "search": {"num_samples": len(first_trials) + 3, "baselines": False},
        "scheduler": {"name": "none"},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": 2},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_sweep(str(folder / "mine.yaml"), (), {})


@pytest.mark.promise(
    "R16",
    "losses, metrics, gradients, weights, penalties that are not finite",
    "ended as diverged after at most one more epoch, not tried again, reported to the search "
    "as failed, never chosen; a constant prediction is flagged, with a Pearson of 0",
)
def test_r16_diverged_trials_end_and_are_never_chosen(
    tmp_path: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_ray: None,
    table: Table,
) -> None:
    bad = faults(tmp_path, tiny_encoder, tiny_data)
    constant = {"model.encoder": changed_encoder(tmp_path / "zero", tiny_encoder, zero)}
    sweep = sweep_of(tmp_path, tiny_encoder, tiny_data, [*bad.values(), constant])
    searchers: list[OptunaSearcher] = []

    class Recorded(OptunaSearcher):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            searchers.append(self)

    monkeypatch.setattr(drive, "OptunaSearcher", Recorded)
    storage = tmp_path / "runs"
    tracking = resolve_tracking(storage)
    result = sweeps.run_sweep(sweep, "s", storage, tracking)

    past = read_history(SweepFolder(storage, "s").trial_folders())
    assert len(past) == len(bad) + 4
    diverged = past[: len(bad)]
    table.played(len(bad) + 1)
    for trial, fault in zip(diverged, bad, strict=True):
        assert trial.outcome is not None
        assert trial.outcome.outcome is Outcome.DIVERGED, (fault, trial.outcome.reason)
        assert trial.outcome.epoch == len(trial.epochs) == (fault == LATER)
        assert len(TrialFolder(storage / "s" / "trials" / trial.name).attempts()) == 1
    others = past[len(bad) :]
    assert [t.outcome.outcome for t in others if t.outcome] == [Outcome.FINISHED] * 4
    flags = {flag for epoch in others[0].epochs for flag in epoch.flags}
    assert any(flag.startswith("dev/similarity/pearson is undefined") for flag in flags)
    assert {epoch.metrics["dev/similarity/pearson"] for epoch in others[0].epochs} == {0.0}

    in_study = searchers[0].study.trials
    assert [trial.state for trial in in_study].count(TrialState.FAIL) == len(bad)
    assert [trial.state for trial in in_study].count(TrialState.COMPLETE) == 4
    values = [v for t in in_study for v in (*(t.values or ()), *t.intermediate_values.values())]
    assert values
    assert all(map(math.isfinite, values))
    assert result.best is not None
    assert result.best[0] not in {trial.name for trial in diverged}

    runs = {run.trial: run for run in find_trials(tracking, "s")}
    assert {runs[trial.name].status for trial in diverged} == {"FAILED"}
    _, choice = choose_ensemble(tracking, Request(("s",)), tmp_path / "cache", LITTLE)
    selective = [task.selective for task in choice.tasks.values()]
    chosen = {member.candidate.trial for found in selective for member in found.members}
    assert chosen
    assert chosen.isdisjoint({trial.name for trial in diverged})
