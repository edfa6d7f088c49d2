"""Precisions: `auto` by device, gradient scaling in float16, TF32; memory of a GPU."""

from pathlib import Path

import pytest
import torch
from stops import stop_at
from tiny_trials import config_of, learner_of, run

from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import Outcome
from trainable.batches.sampler import Step
from trainable.runtime import precision
from trainable.runtime.precision import autocast, choose_device, choose_precision, training_bytes
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "has_bf16", "expected"),
    [
        (CPU, True, torch.bfloat16),
        (CPU, False, torch.float32),
        (CUDA, True, torch.bfloat16),
        (CUDA, False, torch.float16),
    ],
)
def test_auto_is_the_precision_with_hardware_support(
    device: torch.device, has_bf16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_amx", lambda: has_bf16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision("auto", device) is expected


def test_only_tf32_rounds_float32_products() -> None:
    for wanted, expected in (("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")):
        choose_precision(wanted, CPU)
        assert torch.backends.cuda.matmul.fp32_precision == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_rounds_products_but_not_weights(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, dtype):
        assert layer(torch.ones(1, 4)).dtype is dtype
    assert layer.weight.dtype is torch.float32


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_step_in_half_precision_is_close_to_one_in_float32(
    tiny_encoder: Path, tiny_data: Path, name: str
) -> None:
    def step(wanted: str) -> tuple[float, torch.Tensor]:
        """The loss, and the change of the weights."""
        learner = learner_of(config_of(tiny_encoder, tiny_data, f"train.precision={wanted}"))
        (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
        _set_scale(learner, 2.0**8)
        before = [p.detach().clone() for p in learner.model.parameters()]
        torch.manual_seed(3)
        loss = float(learner.step(batch, 1, 0))
        pairs = zip(learner.model.parameters(), before, strict=True)
        return loss, torch.cat([(p.detach() - start).ravel() for p, start in pairs])

    exact_loss, exact = step("fp32")
    loss, found = step(name)
    assert found.dtype is torch.float32
    assert loss == pytest.approx(exact_loss, rel=0.05)
    assert not torch.equal(found, exact)
    assert torch.cosine_similarity(found, exact, dim=0) > 0.9


def test_float16_skips_steps_whose_gradients_overflow(tiny_encoder: Path, tiny_data: Path) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data, "train.precision=fp16"))
    _set_scale(learner, 2.0**20)  # with it, gradients overflow in float16
    before = [p.detach().clone() for p in learner.model.parameters()]
    steps = [Step("sentiment", torch.arange(8).numpy())] * 7
    scales = []
    for number, batch in enumerate(learner.batches(steps, 1)):
        learner.step(batch, 1, number)
        scales.append(learner.scaler.get_scale())
        if number == 0:
            after = list(learner.model.parameters())
            assert all(map(torch.equal, before, after))
    assert scales[0] == 2.0**19
    assert scales[-1] < scales[0]
    assert not all(map(torch.equal, before, learner.model.parameters()))


def _set_scale(learner: Learner, scale: float) -> None:
    """Set the factor of the gradients; without effect if they are not scaled."""
    learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": scale})


def test_a_resumed_trial_in_float16_gives_the_same_results(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, "train.precision=fp16")
    run(config, tmp_path / "whole", tmp_path)
    stopped = run(config, tmp_path / "t", tmp_path, stop=stop_at(6))
    assert stopped.outcome is Outcome.STOPPED
    run(config, tmp_path / "t", tmp_path)
    whole, resumed = (TrialFolder(tmp_path / name).epochs() for name in ("whole", "t"))
    assert [r.metrics for r in resumed] == [r.metrics for r in whole]


def fake_gpu(monkeypatch: pytest.MonkeyPatch, free: float, reserved: float = 0) -> None:
    """Pretend that there is a GPU with 8 GB, of which `free` are free and this process holds
    `reserved`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * 1e9), int(8e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: int(reserved * 1e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU 7")


def test_a_missing_device_is_an_error_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    config = config_of(Path("/nowhere"), Path("/nowhere"), "train.device=cuda")
    with pytest.raises(ConfigError, match=r"train\.device=cuda: this process has no CUDA device"):
        run(config, tmp_path / "trial", tmp_path / "shared")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_too_little_free_memory_is_an_error_before_training(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu(monkeypatch, free=1.5)
    assert choose_device(wanted, int(1.4e9)).type == "cuda"
    with pytest.raises(ConfigError, match=r"GPU 7: 1.5 of 8.0 GB are free, and 1.7 GB are needed"):
        choose_device(wanted, int(1.7e9))
    fake_gpu(monkeypatch, free=1.5, reserved=0.5)
    assert choose_device(wanted, int(1.7e9)).type == "cuda"


def test_training_needs_weights_gradients_and_two_moments() -> None:
    assert training_bytes(torch.nn.Linear(10, 5)) == 4 * 4 * 55
