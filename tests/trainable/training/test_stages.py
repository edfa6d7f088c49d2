"""Stages and their learning rates, which equal the reference's."""

import pytest
import reference

from mlflow_setup.errors import ConfigError
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.sections import Optim
from trainable.training.stages import (
    Stage,
    final_rate,
    first_candidate_epoch,
    learning_rate,
    num_frozen_epochs,
    num_probe_epochs,
    stage_at,
    stages_of,
    total_epochs,
)


def _config(*stages: str) -> Config:
    return from_flat(
        {
            "train.stages": list(stages),
            "probe.num_epochs": 2,
            "probe.lr": 1e-3,
            "train.num_epochs": 4,
            "swa.num_epochs": 3,
            "swa.lr": 1e-5,
            "optim.lr": 1e-2,
            "optim.lr_decay": 0.8,
            "optim.warmup_steps": 4,
        }
    )


def test_a_rate_is_never_negative() -> None:
    assert learning_rate(Optim(lr=1e-3, lr_decay=1.0), 30, 10) == 0.0


def test_a_decay_per_epoch_does_not_depend_on_the_number_of_epochs() -> None:
    optim = Optim(lr=1e-5, lr_decay_per_epoch=4e-7)
    for num_epochs in (10, 20):
        rates = [learning_rate(optim, epoch, num_epochs) for epoch in (1, 2, 10, 40)]
        assert rates == pytest.approx([1e-5, 9.6e-6, 6.4e-6, 0.0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optim.lr": 1e-5, "optim.lr_decay_per_epoch": 4e-7, "train.num_epochs": 20}, 2.4e-6),
        ({"optim.lr": 1e-5, "optim.lr_decay": 0.4, "train.num_epochs": 20}, 6.2e-6),
        ({"optim.lr": 1e-5}, 1e-5),
    ],
)
def test_the_final_rate(settings: dict[str, float], expected: float) -> None:
    assert final_rate(from_flat(settings)) == pytest.approx(expected)
    assert final_rate(from_flat({"train.stages": ["probe"]})) is None


def test_both_decays_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim.lr_decay=0.4 and optim.lr_decay_per_epoch=4e-07"):
        from_flat({"optim.lr_decay": 0.4, "optim.lr_decay_per_epoch": 4e-7})


def test_candidates_are_averages_if_there_are_any_else_all_epochs() -> None:
    config = _config("probe", "finetune", "swa")
    found = [first_candidate_epoch(config, epoch) for epoch in (1, 2, 3, 6, 7, 9)]
    assert found == [1, 1, 1, 1, 7, 7]


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_epochs", [1, 20])
def test_the_schedule_equals_the_references(decay: float, num_epochs: int) -> None:
    optim = Optim(lr=1e-3, lr_decay=decay)
    for epoch in range(1, num_epochs + 1):
        expected = reference.learning_rate(1e-3, decay, epoch, num_epochs)
        assert learning_rate(optim, epoch, num_epochs) == pytest.approx(expected, rel=1e-9)


def test_epochs_are_numbered_across_stages() -> None:
    config = _config("probe", "finetune", "swa")
    stages = stages_of(config)
    assert stages == (Stage("probe", 1, 2), Stage("finetune", 3, 4), Stage("swa", 7, 3))
    assert [stage.last_epoch for stage in stages] == [2, 6, 9]
    names = [stage_at(config, epoch).name for epoch in range(1, 10)]
    assert names == ["probe"] * 2 + ["finetune"] * 4 + ["swa"] * 3
    assert total_epochs(config) == 9
    assert (num_frozen_epochs(config), num_probe_epochs(config)) == (2, 2)
    alone = _config("finetune")
    assert (total_epochs(alone), num_frozen_epochs(alone), num_probe_epochs(alone)) == (4, 0, 0)


def test_the_encoder_is_frozen_in_fit_and_probe() -> None:
    frozen = {name: Stage(name, 1, 1).is_frozen for name in ("fit", "probe", "finetune", "swa")}
    assert frozen == {"fit": True, "probe": True, "finetune": False, "swa": False}


def test_fitting_heads_takes_one_epoch() -> None:
    config = from_flat({"train.stages": ["fit"], "model.heads": "constant"})
    assert stages_of(config) == (Stage("fit", 1, 1),)
    assert (num_frozen_epochs(config), num_probe_epochs(config)) == (1, 0)


def test_each_stage_has_its_rate_and_only_fine_tuning_warms_up() -> None:
    config = _config("probe", "finetune", "swa")
    probe, finetune, swa = stages_of(config)
    assert [probe.rate(config, 1, 0), probe.rate(config, 2, 9)] == [1e-3, 1e-3]
    assert [swa.rate(config, 7, 0), swa.rate(config, 9, 0)] == [1e-5, 1e-5]
    rates = [finetune.rate(config, 3, step) for step in (0, 1, 3, 4)]
    assert rates == pytest.approx([0.25e-2, 0.5e-2, 1e-2, 1e-2])
    for epoch in (3, 4, 5, 6):
        expected = reference.learning_rate(1e-2, 0.8, epoch - 2, 4)
        assert finetune.rate(config, epoch, 100) == pytest.approx(expected)


def test_progress_is_from_0_to_1() -> None:
    stage = Stage("finetune", 3, 5)
    assert [stage.progress(epoch) for epoch in (3, 4, 5, 7)] == [0, 0.25, 0.5, 1]
    assert Stage("finetune", 3, 2).progress(4) == 1
    assert Stage("finetune", 3, 1).progress(3) == 0
