"""Trials with each technique give the same results when they are stopped and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed import TECHNIQUES, results_of
from stops import stop_at
from tiny_trials import config_of, learner_of, run

from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord
from trainable.batches.sampler import Step
from trainable.config.config import Config
from trainable.model.encoder import load_pretrained
from trainable.model.weight_files import weights_fingerprint
from trainable.storage.trial_folder import TrialFolder
from trainable.training import trainer
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

LIKE_PLAIN = ("plain", "swa")
"""Techniques whose first epoch equals the plain recipe's."""


def stop_in(folder: Path, epoch: int) -> Callable[[], bool]:
    """A `stop` that asks to stop before step 4 of the epoch."""
    stop = stop_at(4)
    return lambda: len(TrialFolder(folder).epochs()) == epoch - 1 and stop()


def run_with_stops(config: Config, folder: Path, shared: Path, epochs: set[int]) -> OutcomeRecord:
    """Run the trial, stopping and resuming it in the middle of each of the epochs."""
    for epoch in sorted(epochs):
        stopped = run(config, folder, shared, stop=stop_in(folder, epoch))
        assert stopped.outcome is Outcome.STOPPED
        assert stopped.reason == f"asked to stop in epoch {epoch} before step 4"
    return run(config, folder, shared)


@pytest.fixture(scope="module")
def first_epochs(
    tiny_encoder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """The first epochs of the two trials that the others are compared with."""
    found, folder = {}, tmp_path_factory.mktemp("first")
    for name in ("plain", "nli"):
        overrides = [*TECHNIQUES[name], "train.num_epochs=1"]
        run(config_of(tiny_encoder, tiny_data, *overrides), folder / name, folder)
        found[name] = results_of(folder / name)[0][0]
    return found


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_resumed_trial_gives_the_same_results(
    technique: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    first_epochs: dict[str, object],
) -> None:
    """It is stopped in the first and in the last epoch of each stage.

    Also, the technique changes the results: if its setting were ignored, they would be those of the
    plain recipe.
    """
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES[technique])
    whole, stopped, shared = tmp_path / "w" / "t", tmp_path / "s" / "t", tmp_path / "shared"
    assert run(config, whole, shared).outcome is Outcome.FINISHED
    expected = results_of(whole)
    stages = stages_of(config)
    ends = {stage.first_epoch + at for stage in stages for at in (0, stage.num_epochs - 1)}
    assert len(expected[0]) == max(ends)
    assert run_with_stops(config, stopped, shared, ends).outcome is Outcome.FINISHED
    assert results_of(stopped) == expected
    other = first_epochs["nli" if technique == "nli, hard negatives" else "plain"]
    assert (expected[0][0] == other) is (technique in LIKE_PLAIN)


def test_a_partial_average_is_resumed(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second epoch of averaging, the trial resumes with the first one's average."""
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES["swa"])
    seen: list[int] = []
    plain = trainer.load_state

    def load_state(learner: Learner, state: dict[str, Any]) -> None:
        plain(learner, state)
        assert learner.average is not None
        seen.append(int(learner.average.n_averaged))

    monkeypatch.setattr(trainer, "load_state", load_state)
    run_with_stops(config, tmp_path / "t", tmp_path, {3})
    assert seen == [1]


def test_early_stopping_ends_after_the_set_number_of_epochs_without_improvement(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(
        tiny_encoder, tiny_data, "train.early_stopping_epochs=2", "train.num_epochs=40"
    )
    seen: list[EpochRecord] = []
    outcome = run(config, tmp_path / "t", tmp_path, report=seen.append)
    assert outcome.outcome is Outcome.FINISHED
    resumed = run_with_stops(config, tmp_path / "s", tmp_path, {1, len(seen)})
    assert (resumed.epoch, resumed.reason) == (outcome.epoch, outcome.reason)
    assert results_of(tmp_path / "s") == results_of(tmp_path / "t")
    overall = [record.metrics["dev/overall"] for record in seen]
    best = overall.index(max(overall)) + 1
    assert outcome.reason == f"no better overall in 2 epochs after epoch {best}"
    assert outcome.epoch == len(overall) == best + 2


def test_clipping_bounds_the_gradient(tiny_encoder: Path, tiny_data: Path) -> None:
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad.norm() for p in parameters if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))

    for limit in ("null", "1e-3"):
        learner = learner_of(config_of(tiny_encoder, tiny_data, f"optim.max_grad_norm={limit}"))
        learner.optimizer.register_step_pre_hook(note)
        (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
        learner.step(batch, 1, 0)
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_fingerprint_depends_on_the_values_of_weights(tiny_encoder: Path) -> None:
    one, two = (load_pretrained(str(tiny_encoder), None, 0.1, "pooler") for _ in range(2))
    assert weights_fingerprint(one.state_dict()) == weights_fingerprint(two.state_dict())
    with torch.no_grad():
        next(two.parameters()).view(-1)[0] += 1e-3
    assert weights_fingerprint(one.state_dict()) != weights_fingerprint(two.state_dict())
