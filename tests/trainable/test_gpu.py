"""The same training on a CUDA device: run wherever there is one.

pytest -m gpu tests/trainable/test_gpu.py
"""

from pathlib import Path

import pytest
import torch
from tiny_trials import config_of, learner_of, run

from mlflow_setup.schema import Outcome
from trainable.batches.sampler import Step, plan_epoch
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TASKS = ("sentiment", "paraphrase", "similarity")
STILL = ("model.encoder_dropout=0", "model.head_dropout=0", "loss.simcse.enabled=false")


def _learner(encoder: Path, data: Path, *overrides: str) -> Learner:
    return learner_of(config_of(encoder, data, "train.device=cuda", *overrides))


def _first_losses(learner: Learner) -> list[float]:
    """Of the first eight examples of each task, before any update."""
    steps = [Step(task, torch.arange(8).numpy()) for task in TASKS]
    return [float(learner.loss(batch)) for batch in learner.batches(steps, 1)]


def test_everything_of_a_step_is_on_the_device(tiny_encoder: Path, tiny_data: Path) -> None:
    learner = _learner(tiny_encoder, tiny_data)
    assert {parameter.device.type for parameter in learner.model.parameters()} == {"cuda"}
    (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
    assert batch.labels.is_cuda
    assert batch.packed.input_ids.is_cuda
    assert learner.step(batch, 1, 0).is_cuda
    assert all(group["fused"] for group in learner.optimizer.param_groups)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_rows_on_the_device_give_the_losses_of_a_cpu(
    tiny_encoder: Path, tiny_data: Path, pooling: str
) -> None:
    """In float32, where nested tensors attend and no product is rounded."""
    settings = (*STILL, f"model.pooling={pooling}", "loss.mnr.tasks=[paraphrase, similarity]")
    on_cpu = learner_of(config_of(tiny_encoder, tiny_data, *settings, "train.device=cpu"))
    on_gpu = _learner(tiny_encoder, tiny_data, *settings)
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    assert _first_losses(on_gpu) == pytest.approx(_first_losses(on_cpu), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_rounded_products_give_nearly_the_same_losses(
    tiny_encoder: Path, tiny_data: Path, precision: str
) -> None:
    exact = _learner(tiny_encoder, tiny_data, *STILL)
    rounded = _learner(tiny_encoder, tiny_data, *STILL, f"train.precision={precision}")
    rounded.model.load_state_dict(exact.model.state_dict())
    assert _first_losses(rounded) == pytest.approx(_first_losses(exact), rel=0.05)


def test_parts_have_the_dropout_masks_of_their_first_pass(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    """The same weights, step by step, whatever was drawn between the passes."""
    found = []
    for _ in range(2):
        learner = _learner(tiny_encoder, tiny_data, "batching.micro_batch_size=3")
        torch.cuda.manual_seed(1)
        (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
        learner.step(batch, 1, 0)
        found.append(torch.cat([p.detach().ravel() for p in learner.model.parameters()]))
    assert torch.equal(*found)


def test_memory_that_runs_out_halves_the_parts(tiny_encoder: Path, tiny_data: Path) -> None:
    """A real out-of-memory: the encoder's pass takes a buffer for each sentence it is given."""
    learner = _learner(tiny_encoder, tiny_data, *STILL)
    expected = _first_losses(learner)[2]
    total = torch.cuda.get_device_properties(0).total_memory
    plain = learner.model.embed

    def embed(packed, noise=None):  # type: ignore[no-untyped-def]
        torch.empty(len(packed.lengths) * total // 9, dtype=torch.uint8, device="cuda")
        return plain(packed, noise)

    learner.model.embed = embed
    (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
    assert float(learner.step(batch, 1, 0)) == pytest.approx(expected, rel=1e-4)
    assert learner.model.micro_batch_size in (4, 2)  # 16 and 8 take more than there is
    assert "out of memory in epoch 1, step 1" in learner.notes[0]


def test_no_step_waits_for_the_device(tiny_encoder: Path, tiny_data: Path) -> None:
    learner = _learner(tiny_encoder, tiny_data, "loss.mnr.tasks=[paraphrase, similarity]")
    lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
    batches = list(learner.batches(plan_epoch(lengths, learner.config.batching, 0, 1)[:6], 1))
    learner.step(batches[0], 1, 0)  # the first allocates
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches):
            learner.step(batch, 1, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", ["never", "always"])
def test_a_trial_of_two_steps_and_its_evaluation(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, compiled: str
) -> None:
    pytest.importorskip("pyarrow")  # a machine that was lent with a GPU may have none
    config = config_of(
        *(tiny_encoder, tiny_data, "train.device=cuda", "train.precision=auto"),
        *("data.tasks=[sentiment, similarity]", "data.max_train_examples=8"),
        *("train.num_epochs=1", f"train.compile={compiled}"),
    )
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED
    assert TrialFolder(tmp_path / "t").epochs()[0].metrics["dev/overall"] > 0
