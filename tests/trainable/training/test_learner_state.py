"""What a checkpoint holds of a learner: of an encoder that only heads are trained on its name."""

import shutil
from pathlib import Path

import torch
from learners import new_batch
from safetensors.torch import load_file, save_file
from tiny_trials import config_of, learner_of, run

from mlflow_setup.schema import EpochRecord, Outcome
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner_state import can_load, load_state, state_of

HEADS = ("train.stages=[probe]", "probe.num_epochs=3")


def test_of_heads_alone_the_encoder_is_not_held_and_another_does_not_fit(
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


def test_an_encoder_that_was_trained_is_held(tiny_encoder: Path, tiny_data: Path) -> None:
    """Also while heads are trained on it; so are states that earlier versions wrote."""
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


def test_a_trial_whose_encoder_is_another_begins_again(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    config = config_of(tmp_path / "encoder", tiny_data, *HEADS)
    told: list[int] = []

    def report(record: EpochRecord) -> None:
        told.append(record.epoch)

    trial = TrialFolder(tmp_path / "t")
    stop = lambda: trial.epoch(2) is not None  # noqa: E731
    assert run(config, trial.path, tmp_path, report=report, stop=stop).outcome is Outcome.STOPPED
    file = tmp_path / "encoder" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert run(config, trial.path, tmp_path, report=report).outcome is Outcome.FINISHED
    assert told == [1, 2, 1, 2, 3]
