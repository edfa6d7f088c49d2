"""What a learner needs to go on where another ended: plain values and tensors."""

from typing import Any

from trainable.model.weight_files import join_encoder, split_encoder, weights_fingerprint
from trainable.training.learner import Learner


def state_of(learner: Learner) -> dict[str, Any]:
    """All that a resumed learner needs. Of the encoder that the trial began with, and only heads
    were trained on, the fingerprint: a learner that is made anew has it."""
    encoder, others = split_encoder(learner.model.state_dict())
    begun_with = learner.encoder_id if learner.stage.is_frozen else None
    if begun_with is not None and weights_fingerprint(encoder) != begun_with:
        begun_with = None
    return {
        "stage": learner.stage.name,
        "encoder": begun_with,
        "model": learner.model.state_dict() if begun_with is None else others,
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "micro_batch_size": learner.model.micro_batch_size,
        "notes": list(learner.notes),
        "average": None if learner.average is None else learner.average.state_dict(),
        "start": None if learner.interpolation is None else learner.interpolation.start,
    }


def fits(learner: Learner, state: dict[str, Any]) -> bool:
    """Whether a learner that was made anew has the encoder that a state is of."""
    return state.get("encoder") in (None, learner.encoder_id)


def load_state(learner: Learner, state: dict[str, Any]) -> None:
    """Put back what `state_of` a learner was, into one that was made anew; where it ended the stage
    before this one, the weights alone."""
    is_whole = state.get("encoder") is None
    encoder = {} if is_whole else join_encoder(learner.model.encoder.state_dict())
    learner.model.load_state_dict(state["model"] | encoder)
    learner.model.micro_batch_size = state["micro_batch_size"]
    learner.notes[:] = state["notes"]
    is_begun = state["stage"] == learner.stage.name
    if is_begun:
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        if learner.average is not None:
            learner.average.load_state_dict(state["average"])
    if learner.interpolation is not None:
        start = state["start"] if is_begun else learner.model.state_dict()
        learner.interpolation.load_start(start)
