"""Find GPU synchronisation and tensors on the wrong device, without a GPU.

    python tests/helpers/fake_gpu.py ENCODER DATA

torch's FakeTensorMode tracks shapes and devices but no values: reading a value (`.item()`, a
boolean mask, a comparison) or mixing devices is an error. `OneDevice` also rejects what a GPU would
accept but wait for: copies other than those of `trainable.runtime.transfer`, and indices on the
host.

A CPU build of torch aborts when it records the gradient of a fake CUDA tensor, and cannot index
one. So the device is the one for torch's Python backends, in a separate process, because it cannot
be unregistered. `PLAIN` lists where a real GPU takes another path.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import trainable.runtime.transfer as transfer
from mlflow_setup.text import first_line
from trainable.batches.sampler import Step
from trainable.config.config import Config
from trainable.config.recipe import RECIPES, resolve
from trainable.data.dataset import read_dataset
from trainable.pretraining.masked_lm import MaskedLMTraining
from trainable.pretraining.pretrain import text_of
from trainable.training.learner import Learner
from trainable.training.optimizer import build_optimizer
from trainable.training.stages import Stage, stages_of

PLAIN = {
    "trainable/runtime/transfer.py": "pinned memory",
    "trainable/runtime/rng_state.py": "the device's own generator",
    "trainable/runtime/precision.py": "autocast",
    "trainable/model/kernels/attention.py": "nested tensors",
    "trainable/model/compilation.py": "compiled layers",
}
"""Features of a CUDA device that are not tested here but by `pytest -m gpu`."""

ROWS = np.arange(3)
PACKAGES = ("trainable", "helpers")

Fault = Callable[[Tensor], Tensor]
PLANTED: dict[str, Fault] = {
    "a CPU tensor": lambda loss: loss + torch.ones(1),
    "a CPU tensor of one number": lambda loss: loss * torch.tensor(2.0),
    "a CPU index": lambda loss: loss[None][torch.zeros(1, dtype=torch.int64)].sum(),
    "an .item()": lambda loss: loss * loss.item(),
    "a boolean mask": lambda loss: loss[None][loss[None] > 0].sum(),
    "a copy to the host": lambda loss: loss.cpu().to(loss.device),
    "a branch": lambda loss: loss if loss > 0 else -loss,
}
"""Name -> a fault to plant into the loss of a step, which must be found."""


class OneDevice(TorchDispatchMode):
    """Rejects operations with tensors on several devices, scalars included, except uploads."""

    is_uploading = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
        if len(devices) > 1 and not self.is_uploading:
            raise RuntimeError(f"{func}: tensors on {' and '.join(sorted(devices))}")
        return out


class FakeGPU:
    """A fake device for models and batches."""

    def __init__(self) -> None:
        class Backend(_DummyBackendModule):
            def get_amp_supported_dtype(self) -> list[torch.dtype]:
                return [torch.bfloat16]

        _setup_privateuseone_for_python_backend("fakegpu", backend_module=Backend())
        self.device = torch.device("fakegpu", 0)
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.one_device = OneDevice()
        for name, replacement in {"upload": self._upload, "download": self._download}.items():
            plain = getattr(transfer, name)
            for module in list(sys.modules.values()):
                if getattr(module, name, None) is plain:
                    setattr(module, name, replacement)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Run the block without values; operations that would wait for the device raise."""
        with self.fake, self.one_device:
            yield

    def _upload(self, tensor: Tensor, device: torch.device) -> Tensor:
        self.one_device.is_uploading = True
        try:
            return tensor.to(device)
        finally:
            self.one_device.is_uploading = False

    def _download(self, tensor: Tensor) -> NDArray[np.float32]:
        return np.zeros(tuple(tensor.shape), np.float32)


def check(gpu: FakeGPU, config: Config, stage: Stage, tasks: list[str], with_dev: bool) -> None:
    """Run a step of each task in a stage of a trial, and an evaluation; raise if rejected."""
    learner = learner_on(gpu, config, stage)
    with gpu.watched():
        steps = [Step(name, ROWS) for name in tasks]
        for number, batch in enumerate(learner.batches(steps, stage.first_epoch)):
            loss = learner.step(batch, stage.first_epoch, number)
            assert loss.device == gpu.device
            learner.optimizer.step = lambda: None  # tested once, and the same for each task
        learner.end_epoch()
        outputs = learner.dev_outputs() if with_dev else {}
    assert all(len(values) == len(ROWS) for values in outputs.values())


def check_fault(gpu: FakeGPU, learner: Learner, fault: Fault) -> None:
    """Run a step with the fault planted into its loss."""
    plain = learner.loss
    with gpu.watched(), patch.object(learner, "loss", lambda batch: fault(plain(batch))):
        (batch,) = learner.batches([Step("sentiment", ROWS)], 1)
        learner.step(batch, 1, 0)


def check_pretraining(gpu: FakeGPU, config: Config) -> None:
    """Run a step of additional pre-training."""
    training = MaskedLMTraining(config, text_of(config), Path("none"), False, "")
    training.device = gpu.device
    with gpu.fake:
        training.model.to_empty(device=gpu.device)
        training.optimizer = torch.optim.AdamW(training.model.parameters(), fused=True)
    with gpu.watched():
        training._train(ROWS)


def learner_on(gpu: FakeGPU, config: Config, stage: Stage) -> Learner:
    """A learner on the GPU at the start of a stage. Code before its first step ran on the CPU."""
    dataset = read_dataset(config)
    dev = {name: examples.take(ROWS) for name, examples in dataset.dev.items()}
    dataset, soft_labels = replace(dataset, dev=dev), {}
    if config.distill.enabled:
        for name, examples in dataset.train.items():
            num_outputs = dataset.tasks[name].num_outputs
            shape = (len(examples), num_outputs) if num_outputs > 1 else (len(examples),)
            soft_labels[name] = torch.zeros(shape)
    learner = Learner(config, dataset, soft_labels=soft_labels)
    learner.enter(stage)
    learner.device = gpu.device
    with gpu.fake:
        learner.model.to_empty(device=gpu.device)
        learner.optimizer = build_optimizer(learner.model, config.optim)
        if stage.name == "swa" or learner.interpolation is not None:  # copies of the model
            learner.enter(stage)
    return learner


def main(encoder: str, data: str) -> None:
    """Print as JSON why steps were rejected: of each recipe's stages, and with each fault."""
    torch.set_num_threads(1)
    gpu = FakeGPU()
    short = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "model.fcn_size=8", "model.max_length=5"),
        *("data.max_train_examples=8", "batching.batch_size=8", "train.precision=fp32"),
    ]
    refused: dict[str, str | None] = {}
    seen = set()
    for name in RECIPES.names():
        config = resolve(name, short, {}).config
        for stage in stages_of(config):
            steps = {task: _step(config, stage, task) for task in config.data.tasks}
            new = [task for task, step in steps.items() if step not in seen]
            has_new_model = (model := (str(config.model), stage.name)) not in seen
            seen |= {*steps.values(), model}
            if stage.name == "fit":
                new = []
            if new or has_new_model:
                why = _refusal(check, gpu, config, stage, new, has_new_model)
            refused[f"{name} {stage.name}"] = why if new or has_new_model else None
    b3 = resolve("b3", short, {}).config
    (stage,) = stages_of(b3)
    refused["pretraining"] = _refusal(check_pretraining, gpu, b3)
    few = resolve("b3", [*short, "batching.micro_batch_size=2"], {}).config
    refused["gradient caching"] = _refusal(check, gpu, few, stage, ["similarity"], False)
    learner = learner_on(gpu, b3, stage)
    planted = {what: _refusal(check_fault, gpu, learner, fault) for what, fault in PLANTED.items()}
    print(json.dumps({"refused": refused, "planted": planted}))


def _step(config: Config, stage: Stage, task: str) -> tuple[str, ...]:
    """The parts of a step of the task; steps with the same parts run the same code."""
    loss, distill = config.loss, config.distill
    terms = (
        loss.mnr if loss.mnr.enabled and task in ("nli", *loss.mnr.tasks) else None,
        loss.simcse if loss.simcse.enabled and task in loss.simcse.tasks else None,
        loss.smart if loss.smart.enabled else None,
        distill.place if distill.enabled else None,
    )
    return (task, stage.name, str(config.model), *map(str, terms))


def _refusal(run: Callable[..., None], *arguments: Any) -> str | None:
    """Why a step is rejected, and the line of our code; None if it is not."""
    try:
        run(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [
            frame
            for frame in frames
            if any(f"/{name}/" in frame.filename for name in PACKAGES)
            and frame.name != OneDevice.__torch_dispatch__.__name__
        ]
        return f"{ours[-1].filename}:{ours[-1].lineno}: {type(error).__name__}: {first_line(error)}"
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
