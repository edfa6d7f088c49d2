"""Every named recipe changes exactly the documented settings of its parent, and trains."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mlflow_setup.schema import Identity, Outcome
from trainable.config.constraints import settings_without_effect
from trainable.config.recipe import RECIPES, read_recipe, resolve
from trainable.training.train import train

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "b3": (
        "baseline",
        {
            "batching.strategy": "even",
            "model.shared_fcn": True,
            "model.nonlinear_heads": True,
            "model.paraphrase_structure": True,
            "loss.paraphrase_weight": 0.1,
            "loss.mnr.enabled": True,
            "loss.simcse.enabled": True,
            "pretrain.enabled": True,
            "optim.lr_decay": 0.8,
            "train.num_epochs": 20,
        },
    ),
    "b2": ("b3", {"model.head_dropout": 0.0}),
    "b1": ("b2", {"data.tasks": ["sentiment", "paraphrase", "similarity", "nli"]}),
    "b4": ("b3", {"distill.enabled": True}),
    "b3-no-even-batching": ("b3", {"batching.strategy": "round_robin"}),
    "b3-no-pretraining": ("b3", {"pretrain.enabled": False}),
    "b3-no-rescaling": ("b3", {"loss.paraphrase_weight": 1.0}),
    "b3-no-shared-fcn": ("b3", {"model.shared_fcn": False, "model.similarity_size": 512}),
    "b3-no-nonlinear-heads": ("b3", {"model.nonlinear_heads": False}),
    "b3-no-paraphrase-structure": ("b3", {"model.paraphrase_structure": False}),
    "b3-no-mnr": ("b3", {"loss.mnr.enabled": False}),
    "b3-no-simcse": ("b3", {"loss.simcse.enabled": False}),
    "b3-sentiment-only": ("b3", {"data.tasks": ["sentiment"]}),
    "b3-paraphrase-only": ("b3", {"data.tasks": ["paraphrase"]}),
    "b3-similarity-only": ("b3", {"data.tasks": ["similarity"]}),
    "b3-nli": ("b3", {"data.tasks": ["sentiment", "paraphrase", "similarity", "nli"]}),
    "b3-smart": ("b3", {"loss.smart.enabled": True}),
    "b3-swa": ("b3", {"train.stages": ["finetune", "swa"]}),
    "b3-weight-decay": ("b3", {"optim.weight_decay": 0.01}),
    "b3-ensemble-distillation": ("b3", {"distill.enabled": True, "distill.num_teachers": 3}),
    "b3-cls": ("b3", {"model.pooling": "cls"}),
    "b3-mean-pooling": ("b3", {"model.pooling": "mean"}),
    "b3-pretrain-nli": (
        "b3",
        {"pretrain.tasks": ["sentiment", "paraphrase", "similarity", "nli"]},
    ),
    "b3-simcse-all": ("b3", {"loss.simcse.tasks": ["sentiment", "paraphrase", "similarity"]}),
    "b3-mnr-paraphrase": ("b3", {"loss.mnr.tasks": ["paraphrase", "similarity"]}),
    "b3-smart-pooled": ("b3-smart", {"loss.smart.place": "pooled"}),
    "b4-distillation-head": ("b4", {"distill.place": "head"}),
    "baseline-lp-ft": ("baseline", {"train.stages": ["probe", "finetune"]}),
    "baseline-paraphrase-structure": ("baseline", {"model.paraphrase_structure": True}),
    "majority": (
        "baseline",
        {"model.pooling": "mean", "model.heads": "constant", "train.stages": ["fit"]},
    ),
    "frozen-linear": (
        "baseline",
        {"model.pooling": "mean", "model.heads": "linear", "train.stages": ["fit"]},
    ),
    "probe": (
        "baseline",
        {
            "model.pooling": "mean",
            "model.shared_fcn": True,
            "model.nonlinear_heads": True,
            "model.paraphrase_structure": True,
            "model.head_dropout": 0.0,
            "loss.mnr.enabled": True,
            "loss.mnr.weight": 0.1,
            "batching.strategy": "even",
            "batching.batch_size": 32,
            "train.stages": ["probe"],
            "probe.num_epochs": 3,
        },
    ),
    "lp-ft": (
        "probe",
        {"train.stages": ["probe", "finetune"], "optim.lr": 5e-5, "train.num_epochs": 3},
    ),
}
"""Recipe -> its parent and exactly what it changes."""


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_changes_exactly_these_settings_of_its_parent(name: str) -> None:
    parent, expected = CHANGES[name]
    ours, theirs = resolve(name, (), {}).config.flat(), resolve(parent, (), {}).config.flat()
    assert {key: value for key, value in ours.items() if theirs[key] != value} == expected


def test_every_recipe_has_a_description_and_no_setting_without_effect() -> None:
    assert set(RECIPES.names()) == {*CHANGES, "baseline"}
    for name in RECIPES.names():
        assert len(read_recipe(name).description) > 20
        assert settings_without_effect(resolve(name, (), {}).config) == []


@pytest.mark.parametrize("name", [*CHANGES, "baseline"])
def test_a_recipe_trains_two_steps_of_each_task(
    name: str, tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    short = [
        *(f"data.dir={tiny_data}", f"model.encoder={tiny_encoder}", "model.fcn_size=8"),
        *("data.max_train_examples=16", "batching.batch_size=8", "train.num_epochs=1"),
        *("train.precision=fp32", "optim.lr=1e-3"),
    ]
    resolved = resolve(name, short, {})
    stages = {"probe": "probe.num_epochs=1", "swa": "swa.num_epochs=1"}
    shorter = [stages[stage] for stage in resolved.config.train.stages if stage in stages]
    if resolved.config.pretrain.enabled:
        shorter += ["pretrain.max_steps=2", "pretrain.batch_size=8"]
    resolved = resolve(name, [*short, *shorter], {})
    identity = Identity("0001", None, name, resolved.origin)
    folder = tmp_path / "0001"
    ended = train(resolved.config, folder, identity=identity, shared=tmp_path / "shared")
    assert ended.outcome is Outcome.FINISHED, ended.reason
    assert ended.epoch == len(resolved.config.train.stages)
