"""Weights between the probe's and the fine-tuned ones are evaluated."""

from pathlib import Path

import torch
from learners import new_batch
from tiny_trials import config_of, learner_of

from trainable.training.learner_state import load_state, state_of
from trainable.training.stages import stages_of


def test_interpolated_weights_are_evaluated(tiny_encoder: Path, tiny_data: Path) -> None:
    """Also by learners that resume from a state of the probe or of fine-tuning."""
    config = config_of(
        *(tiny_encoder, tiny_data, "train.stages=[probe, finetune]", "probe.num_epochs=1"),
        *("train.num_epochs=2", "train.finetuned_share=0.25", "optim.lr=0.01"),
    )
    probe, finetune = stages_of(config)
    one, two, three = (learner_of(config) for _ in range(3))
    one.enter(probe)
    one.step(new_batch(one, "sentiment"), 1, 0)
    one.end_epoch()
    assert one.scored_model is one.model
    two.enter(finetune)
    load_state(two, state_of(one))
    start = {name: value.double() for name, value in one.model.state_dict().items()}
    one.enter(finetune)
    one.step(new_batch(one, "sentiment"), 2, 0)
    three.enter(finetune)
    load_state(three, state_of(one))
    two.model.load_state_dict(one.model.state_dict())
    for learner in (one, two, three):
        learner.end_epoch()
        found = learner.scored_model.state_dict()
        for name, value in one.model.state_dict().items():
            expected = start[name] + 0.25 * (value.double() - start[name])
            torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-5)
    name = "encoder.embeddings.word_embeddings.weight"
    assert (one.model.state_dict()[name] - start[name]).abs().max() > 1e-3
