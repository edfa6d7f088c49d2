"""Training on a CUDA device gives the results of training on a CPU.

pytest -m gpu tests/trainable/test_gpu.py
"""

from pathlib import Path

import pytest
import torch
from tiny_trials import NO_DROPOUT, config_of, learner_of, run

from mlflow_setup.schema import Outcome
from trainable.batches.sampler import Step, plan_epoch
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TASKS = ("sentiment", "paraphrase", "similarity")


def _learner(encoder: Path, data: Path, *overrides: str) -> Learner:
    return learner_of(config_of(encoder, data, "train.device=cuda", *overrides))


def _first_losses(learner: Learner) -> list[float]:
    """The loss of the first eight examples of each task, before any update."""
    steps = [Step(task, torch.arange(8).numpy()) for task in TASKS]
    return [float(learner.loss(batch)) for batch in learner.batches(steps, 1)]


def test_all_tensors_of_a_step_are_on_the_device(tiny_encoder: Path, tiny_data: Path) -> None:
    learner = _learner(tiny_encoder, tiny_data)
    assert {parameter.device.type for parameter in learner.model.parameters()} == {"cuda"}
    (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
    assert batch.labels.is_cuda
    assert batch.packed.input_ids.is_cuda
    assert learner.step(batch, 1, 0).is_cuda
    assert all(group["fused"] for group in learner.optimizer.param_groups)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_losses_equal_those_of_a_cpu(tiny_encoder: Path, tiny_data: Path, pooling: str) -> None:
    """In float32, where attention uses nested tensors and products are not rounded."""
    settings = (*NO_DROPOUT, f"model.pooling={pooling}", "loss.mnr.tasks=[paraphrase, similarity]")
    on_cpu = learner_of(config_of(tiny_encoder, tiny_data, *settings, "train.device=cpu"))
    on_gpu = _learner(tiny_encoder, tiny_data, *settings)
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    assert _first_losses(on_gpu) == pytest.approx(_first_losses(on_cpu), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_reduced_precision_changes_losses_only_slightly(
    tiny_encoder: Path, tiny_data: Path, precision: str
) -> None:
    exact = _learner(tiny_encoder, tiny_data, *NO_DROPOUT)
    rounded = _learner(tiny_encoder, tiny_data, *NO_DROPOUT, f"train.precision={precision}")
    rounded.model.load_state_dict(exact.model.state_dict())
    assert _first_losses(rounded) == pytest.approx(_first_losses(exact), rel=0.05)


def test_micro_batches_repeat_the_dropout_masks_of_their_first_pass(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    """A step from the same seed gives the same weights."""
    found = []
    for _ in range(2):
        learner = _learner(tiny_encoder, tiny_data, "batching.micro_batch_size=3")
        torch.cuda.manual_seed(1)
        (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
        learner.step(batch, 1, 0)
        found.append(torch.cat([p.detach().ravel() for p in learner.model.parameters()]))
    assert torch.equal(*found)


def test_running_out_of_memory_halves_the_micro_batch(tiny_encoder: Path, tiny_data: Path) -> None:
    """A real error: the encoder's forward pass allocates a ninth of the memory per sentence."""
    learner = _learner(tiny_encoder, tiny_data, *NO_DROPOUT)
    expected = _first_losses(learner)[2]
    total = torch.cuda.get_device_properties(0).total_memory
    plain = learner.model.embed

    def embed(packed, noise=None):  # type: ignore[no-untyped-def]
        torch.empty(len(packed.lengths) * total // 9, dtype=torch.uint8, device="cuda")
        return plain(packed, noise)

    learner.model.embed = embed
    (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
    assert float(learner.step(batch, 1, 0)) == pytest.approx(expected, rel=1e-4)
    assert learner.model.micro_batch_size in (4, 2)  # 16 and 8 do not fit
    assert "out of memory in epoch 1, step 1" in learner.notes[0]


def test_no_step_waits_for_the_device(tiny_encoder: Path, tiny_data: Path) -> None:
    learner = _learner(tiny_encoder, tiny_data, "loss.mnr.tasks=[paraphrase, similarity]")
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    batches = list(learner.batches(plan_epoch(lengths, learner.config.batching, 0, 1)[:6], 1))
    learner.step(batches[0], 1, 0)  # the first step allocates memory
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches):
            learner.step(batch, 1, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", ["never", "always"])
def test_a_trial_trains_and_evaluates(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, compiled: str
) -> None:
    pytest.importorskip("pyarrow")  # a machine with a GPU may lack it
    config = config_of(
        *(tiny_encoder, tiny_data, "train.device=cuda", "train.precision=auto"),
        *("data.tasks=[sentiment, similarity]", "data.max_train_examples=8"),
        *("train.num_epochs=1", f"train.compile={compiled}"),
    )
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED
    assert TrialFolder(tmp_path / "t").epochs()[0].metrics["dev/overall"] > 0
