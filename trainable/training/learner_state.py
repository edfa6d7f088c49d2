"""The resumable state of a learner, as plain values and tensors."""

from typing import Any

from trainable.model.weight_files import join_encoder, split_encoder, weights_fingerprint
from trainable.training.learner import Learner


def state_of(learner: Learner) -> dict[str, Any]:
    """Everything that a new learner needs to resume. A frozen encoder that is still the trial's
    initial one is represented by its fingerprint, as a new learner loads the same weights."""
    encoder, others = split_encoder(learner.model.state_dict())
    initial = learner.encoder_id if learner.stage.is_frozen else None
    if initial is not None and weights_fingerprint(encoder) != initial:
        initial = None
    return {
        "stage": learner.stage.name,
        "encoder": initial,
        "model": learner.model.state_dict() if initial is None else others,
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "micro_batch_size": learner.model.micro_batch_size,
        "notes": list(learner.notes),
        "average": None if learner.average is None else learner.average.state_dict(),
        "start": None if learner.interpolation is None else learner.interpolation.start,
    }


def can_load(learner: Learner, state: dict[str, Any]) -> bool:
    """Whether a new learner has the encoder that the state refers to."""
    return state.get("encoder") in (None, learner.encoder_id)


def load_state(learner: Learner, state: dict[str, Any]) -> None:
    """Restore the result of `state_of` in a new learner; only the weights if the state is from the
    end of the previous stage."""
    has_encoder = state.get("encoder") is None
    encoder = {} if has_encoder else join_encoder(learner.model.encoder.state_dict())
    learner.model.load_state_dict(state["model"] | encoder)
    learner.model.micro_batch_size = state["micro_batch_size"]
    learner.notes[:] = state["notes"]
    is_same_stage = state["stage"] == learner.stage.name
    if is_same_stage:
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        if learner.average is not None:
            learner.average.load_state_dict(state["average"])
    if learner.interpolation is not None:
        start = state["start"] if is_same_stage else learner.model.state_dict()
        learner.interpolation.load_start(start)
