"""The state of a learner in checkpoints; instead of a frozen encoder it has an identifier."""

import shutil
from pathlib import Path

import torch
from learners import new_batch
from safetensors.torch import load_file, save_file
from tiny_trials import config_of, learner_of, run

from mlflow_setup.schema import EpochRecord, Outcome
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner_state import can_load, load_state, state_of
from trainable.training.stages import stages_of

HEADS = ("train.stages=[probe]", "probe.num_epochs=3")


def test_a_learner_is_resumed_from_its_state(tiny_encoder: Path, tiny_data: Path) -> None:
    """In the same stage with its optimizer and average, in another with the weights only."""
    config = config_of(
        tiny_encoder, tiny_data, "train.stages=[finetune, swa]", "train.num_epochs=1"
    )
    first, swa = stages_of(config)
    one = learner_of(config)
    one.enter(swa)
    for number in (0, 1):
        one.step(new_batch(one, "sentiment"), 2, number)
        one.end_epoch()
    one.notes.append("a note")
    one.model.micro_batch_size = 4
    two = learner_of(config)
    two.enter(swa)
    load_state(two, state_of(one))
    assert (two.notes, two.model.micro_batch_size) == (["a note"], 4)
    assert two.average is not None
    assert int(two.average.n_averaged) == 2
    for learner in (one, two):
        torch.manual_seed(3)
        learner.step(new_batch(learner, "similarity"), 2, 2)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], value, msg=name)
    for name, value in one.scored_model.state_dict().items():
        torch.testing.assert_close(two.scored_model.state_dict()[name], value, msg=name)
    ended = learner_of(config)
    ended.enter(first)
    load_state(ended, state_of(one))
    assert ended.scored_model is ended.model
    assert not ended.optimizer.state_dict()["state"]
    for name, value in one.model.state_dict().items():
        assert torch.equal(ended.model.state_dict()[name], value), name


def test_a_frozen_encoder_is_not_stored_and_another_one_is_refused(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, *HEADS)
    one, two = learner_of(config), learner_of(config)
    one.step(new_batch(one, "sentiment"), 1, 0)
    state = state_of(one)
    assert not [name for name in state["model"] if name.startswith("encoder.")]
    assert can_load(two, state)
    load_state(two, state)
    for name, value in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], value), name
    two.encoder_id = "another"
    assert not can_load(two, state)


def test_a_trained_encoder_is_stored(tiny_encoder: Path, tiny_data: Path) -> None:
    """Also while it is frozen. States of earlier releases have no identifier."""
    one, two = (learner_of(config_of(tiny_encoder, tiny_data, *HEADS)) for _ in range(2))
    with torch.no_grad():
        next(one.model.encoder.parameters()).add_(1)
    state = state_of(one)
    assert state["model"].keys() == one.model.state_dict().keys()
    del state["encoder"]
    assert can_load(two, state)
    load_state(two, state)
    for name, value in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], value), name


def test_a_trial_with_a_changed_encoder_starts_again(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    config = config_of(tmp_path / "encoder", tiny_data, *HEADS)
    reports: list[EpochRecord] = []
    trial = TrialFolder(tmp_path / "t")
    hooks = {"report": reports.append, "stop": lambda: trial.epoch(2) is not None}
    assert run(config, trial.path, tmp_path, **hooks).outcome is Outcome.STOPPED
    file = tmp_path / "encoder" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert run(config, trial.path, tmp_path, report=reports.append).outcome is Outcome.FINISHED
    assert [record.epoch for record in reports] == [1, 2, 1, 2, 3]
