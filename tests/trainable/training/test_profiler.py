"""Rehearsals: a few steps of each stage, their times and sizes, for every technique."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from mlflow_setup.errors import ConfigError
from trainable.batches.sampler import plan_epoch
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.data.dataset import read_dataset
from trainable.losses.objective import Objective
from trainable.model.multitask import build_model
from trainable.training.learner import Learner
from trainable.training.profiler import rehearse, steps_per_second


def config_of(data: Path, encoder: Path, **given: Any) -> Config:
    settings = {
        "data.dir": str(data),
        "model.encoder": str(encoder),
        "model.fcn_size": 16,
        "train.num_epochs": 3,
        "batching.batch_size": 8,
        "optim.lr": 1e-4,
    }
    return from_flat({**settings, **{key.replace("__", "."): v for key, v in given.items()}})


def test_a_rehearsal_measures_steps_and_sizes(tiny_data: Path, tiny_encoder: Path) -> None:
    config = config_of(tiny_data, tiny_encoder, batching__strategy="even")
    dataset = read_dataset(config)
    found = rehearse(config, dataset)
    (stage,) = found.stages
    lengths = {name: torch.ones(len(e)).numpy().astype(int) for name, e in dataset.train.items()}
    assert sum(stage.num_steps) == len(plan_epoch(lengths, config.batching, config.seed, 1))
    assert all(len(times) == 3 for times in stage.step_seconds)
    assert min(map(min, stage.step_seconds)) > 0
    assert found.num_epochs == stage.num_epochs == 3
    model = build_model(config)
    assert found.num_parameters == model.num_parameters
    assert found.weights_bytes == sum(value.nbytes for value in model.state_dict().values())
    in_encoder = sum(value.nbytes for value in model.encoder.state_dict().values())
    assert found.encoder_bytes == in_encoder
    assert found.checkpoint_bytes > 2 * found.weights_bytes
    assert found.predictions_bytes == 4 * 32 * (6 + 2 + 2)
    assert found.peak_bytes > 10**7


@pytest.mark.parametrize(
    "given",
    [
        {"train__stages": ["probe", "finetune", "swa"]},
        {"train__stages": ["probe"], "probe__cache": False},
        {"loss__smart__enabled": True},
        {"loss__simcse__enabled": True, "loss__mnr__enabled": True},
        {"batching__strategy": "temperature"},
        {"batching__batch_size": 64},
        {"distill__enabled": True},
        {"data__tasks": ["sentiment"]},
    ],
)
def test_every_technique_can_be_rehearsed(
    tiny_data: Path, tiny_encoder: Path, given: dict[str, Any]
) -> None:
    config = config_of(tiny_data, tiny_encoder, **given)
    found = rehearse(config, read_dataset(config))
    names = config.train.stages
    assert all(stage.num_epochs > 0 for stage in found.stages)
    assert [stage.is_frozen for stage in found.stages] == [name == "probe" for name in names]
    is_cached = [name == "probe" and config.probe.cache for name in names]
    assert [stage.once_seconds > 0 for stage in found.stages] == is_cached


def test_unsupported_pretraining_is_refused(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = RobertaConfig(vocab_size=60, intermediate_size=32, pad_token_id=0, **size)
    RobertaModel(settings).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_encoder / name).read_bytes())
    plain = config_of(tiny_data, tmp_path, model__pooling="mean")
    rehearse(plain, read_dataset(plain))
    pretrained = config_of(tiny_data, tmp_path, model__pooling="mean", pretrain__enabled=True)
    with pytest.raises(ConfigError, match="supports BERT"):
        rehearse(pretrained, read_dataset(pretrained))


def test_a_step_that_diverges_is_an_error(
    tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_data, tiny_encoder)
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(Objective, "__call__", lambda *_: nan * 1)
    with pytest.raises(ConfigError, match=r"loss of .* is nan"):
        rehearse(config, read_dataset(config))


def test_steps_are_timed_after_a_warm_up(
    tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_data, tiny_encoder, train__stages=["probe", "finetune"])
    starts: list[None] = []
    steps, plain = [], Learner.step

    def step(self: Learner, *given: Any) -> torch.Tensor:
        steps.append(len(starts))
        assert self.stage.name == "finetune"
        return plain(self, *given)

    monkeypatch.setattr(Learner, "step", step)
    rate = steps_per_second(config, read_dataset(config), 0.3, lambda: starts.append(None))
    assert len(starts) == 1
    assert steps.count(0) > 0  # each shape once, before the start
    assert 0 < rate * 0.3 <= steps.count(1) + 1
