"""State that is written atomically: checkpoints, weights and outcomes, as old (1) and new (2)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from stored_steps import loaded_step, state

from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.schema import Outcome, OutcomeRecord
from trainable.model import weight_files
from trainable.storage.checkpoint import save_checkpoint
from trainable.storage.trial_folder import TrialFolder


@dataclass(frozen=True)
class Target:
    """A kind of state. `read` acts as a new process, and returns 1 (old) or 2 (new)."""

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    read: Callable[[Path], int]


def write_weights(epoch: int) -> Callable[[Path], object]:
    return lambda folder: [
        (folder / name).write_bytes(bytes([epoch]) * 3000) for name in ("model", "heads")
    ]


def newest_weights(path: Path) -> int:
    trial = TrialFolder(path)
    trial.forget_after(9)
    for epoch in trial.kept_epochs():
        folder = trial.require_weights(epoch)
        assert {path.name for path in folder.iterdir()} == {"model", "heads", MANIFEST}
        assert (folder / "model").read_bytes() == bytes([epoch]) * 3000
    return max(trial.kept_epochs())


def keep_heads(path: Path, epoch: int) -> None:
    """Keep weights of an epoch whose encoder is that of all epochs."""
    trial = TrialFolder(path / "t")
    weights = {"encoder.x": torch.ones(100), "heads.x": torch.full((600,), float(epoch))}
    kept = [trial.weights_dir(before) for before in trial.kept_epochs()]
    trial.keep_weights(
        epoch, lambda folder: weight_files.write_weights(weights, folder, kept, path / "shared")
    )


def newest_heads(path: Path) -> int:
    trial = TrialFolder(path / "t")
    trial.forget_after(9)
    for epoch in trial.kept_epochs():
        found = weight_files.read_weights(trial.require_weights(epoch))
        assert torch.equal(found["encoder.x"], torch.ones(100))
        assert torch.equal(found["heads.x"], torch.full((600,), float(epoch)))
    return max(trial.kept_epochs())


def drop_state(path: Path) -> int:
    """1: the weights of both epochs exist and are complete; 2: only those of the first."""
    newest_weights(path)
    return 1 if 2 in TrialFolder(path).kept_epochs() else 2


def outcome(number: int) -> OutcomeRecord:
    kind = Outcome.STOPPED if number == 1 else Outcome.FINISHED
    return OutcomeRecord(kind, f"outcome {number} " * 50, number, float(number))


def stored_outcome(path: Path) -> int:
    trial = TrialFolder(path)
    trial.forget_after(9)
    found = trial.outcome()
    assert found is not None
    assert found == outcome(found.epoch)
    return found.epoch


TARGETS = {
    "checkpoint": Target(
        prepare=lambda path: [save_checkpoint(path, step, state(step)) for step in (0, 1)],
        write=lambda path: save_checkpoint(path, 2, state(2)),
        read=loaded_step,
    ),
    "weights": Target(
        prepare=lambda path: TrialFolder(path).keep_weights(1, write_weights(1)),
        write=lambda path: TrialFolder(path).keep_weights(2, write_weights(2)),
        read=newest_weights,
    ),
    "weights of heads": Target(
        prepare=lambda path: keep_heads(path, 1),
        write=lambda path: keep_heads(path, 2),
        read=newest_heads,
    ),
    "dropped weights": Target(
        prepare=lambda path: [
            TrialFolder(path).keep_weights(epoch, write_weights(epoch)) for epoch in (1, 2)
        ],
        write=lambda path: TrialFolder(path).drop_weights(2),
        read=drop_state,
    ),
    "outcome": Target(
        prepare=lambda path: TrialFolder(path).write_outcome(outcome(1)),
        write=lambda path: TrialFolder(path).write_outcome(outcome(2)),
        read=stored_outcome,
    ),
}
