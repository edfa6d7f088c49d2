"""LoRA, and gradient checkpointing."""

from pathlib import Path

import pytest
import torch
from encoders import FAMILIES, write_encoder
from tiny_trials import config_of, learner_of, loss_and_gradients, run

from mlflow_setup.schema import Outcome
from trainable.batches.sampler import Step
from trainable.config.constraints import settings_without_effect
from trainable.evaluation.evaluate import outputs_of
from trainable.model.lora import LoRALinear, plain_weights
from trainable.model.multitask import build_model, load_member
from trainable.model.weight_files import read_weights
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner

LORA = ("model.lora.rank=2", "model.lora.alpha=8", "optim.lr=1e-2")
ROWS = torch.arange(8).numpy()


def _take_steps(learner: Learner) -> None:
    for number, batch in enumerate(learner.batches([Step("similarity", ROWS)] * 3, 1)):
        learner.step(batch, 1, number)


def test_the_initial_outputs_are_those_of_the_plain_model(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    plain, with_lora = (
        learner_of(config_of(tiny_encoder, tiny_data, *more)).dev_outputs() for more in ((), LORA)
    )
    for name, values in plain.items():
        assert (with_lora[name] == values).all(), name


@pytest.mark.parametrize("stages", ["[finetune]", "[probe, finetune]"])
def test_only_the_lora_matrices_and_the_heads_are_trained(
    tiny_encoder: Path, tiny_data: Path, stages: str
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data, *LORA, f"train.stages={stages}"))
    if "probe" in stages:
        assert not any(value.requires_grad for value in learner.model.encoder.parameters())
        learner.model.freeze_encoder(False)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    trained = {name for name, value in learner.model.named_parameters() if value.requires_grad}
    frozen = {name for name in before if name.startswith("encoder.") and "lora_" not in name}
    assert trained == set(before) - frozen
    if "probe" not in stages:
        _take_steps(learner)
        after = learner.model.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert not changed & frozen
        assert {name for name in changed if "lora_a" in name}
        assert {name for name in changed if "lora_b" in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_has_lora_and_merged_weights_give_the_same_outputs(
    family: str, tiny_data: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path, family)
    pooling = "mean" if family in ("distilbert", "modernbert", "electra") else "pooler"
    config = config_of(encoder, tiny_data, *LORA, f"model.pooling={pooling}")
    learner = learner_of(config)
    kinds = [type(m) for m in learner.model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert set(kinds) == {LoRALinear}
    _take_steps(learner)
    plain = build_model(config_of(encoder, tiny_data, f"model.pooling={pooling}"))
    assert plain.num_parameters == learner.model.num_parameters
    assert plain.num_encoder_parameters == learner.model.num_encoder_parameters
    plain.load_state_dict(plain_weights(learner.model))
    for name, tokens in learner.dev_tokens.items():
        ours, theirs = (
            outputs_of(model, name, tokens, 16, torch.float32) for model in (learner.model, plain)
        )
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4), name


def test_a_trial_keeps_merged_weights(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = config_of(
        *(tiny_encoder, tiny_data, *LORA, "train.stages=[finetune, swa]"),
        *("train.num_epochs=1", "swa.num_epochs=1", "swa.lr=1e-2"),
    )
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED
    trial = TrialFolder(tmp_path / "t")
    epoch = trial.kept_epochs()[-1]
    weights = trial.weights_dir(epoch)
    assert not [name for name in read_weights(weights) if "lora" in name]
    member = load_member(weights, trial.encoder_dir, config)
    learner = learner_of(config)
    kept = Predictions.read(trial.predictions_path(epoch), "similarity")
    found = outputs_of(member, "similarity", learner.dev_tokens["similarity"], 16, torch.float32)
    assert found == pytest.approx(kept.outputs, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_gradient_checkpointing_gives_equal_gradients(
    family: str, tiny_data: Path, tmp_path: Path
) -> None:
    """The layers are computed again with the same dropout masks."""
    encoder = write_encoder(tmp_path, family)
    settings = (encoder, tiny_data, "model.encoder_dropout=0.3", "model.pooling=mean")
    losses, gradients, passes = [], [], []
    for again in ("false", "true"):
        learner = learner_of(config_of(*settings, f"model.gradient_checkpointing={again}"))
        seen: list[int] = []
        modules = learner.model.encoder.modules()
        layer = next(m for m in modules if type(m).__name__.endswith("Layer"))
        first = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
        first.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        loss, found = loss_and_gradients(learner, "similarity")
        losses.append(loss)
        gradients.append(found)
        passes.append(len(seen))
    assert passes == [1, 2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_settings_of_a_frozen_encoder_have_no_effect(tiny_encoder: Path, tiny_data: Path) -> None:
    config = config_of(
        *(tiny_encoder, tiny_data, "train.stages=[probe]", "model.lora.rank=2"),
        "model.gradient_checkpointing=true",
    )
    lines = " ".join(settings_without_effect(config))
    assert "model.lora.rank=2 has no effect" in lines
    assert "model.gradient_checkpointing=True has no effect" in lines
    config = config_of(tiny_encoder, tiny_data, "model.lora.alpha=4")
    assert any("model.lora.rank is not set" in line for line in settings_without_effect(config))
