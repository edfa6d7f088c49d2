"""The effect of bf16 rounding on scores: float32 and bf16 training over several seeds.

    python benchmarks/rounding.py --data-dir DATA

`--how autocast` trains as `train.precision=bf16` does, which needs hardware support. `--how
rounded` simulates it on any machine: the inputs and outputs of every matrix product, forward and
backward, are rounded to bf16, and the product accumulates in float32, as bf16 hardware does.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from mlflow_setup.schema import Identity
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

_PRODUCTS = (
    *(linear, scaled_dot_product_attention),
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__),
)


class _Round(torch.autograd.Function):
    """Rounds to bf16 and back, in the forward and the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.bfloat16().float()


class Rounded(TorchFunctionMode):
    """Simulates the matrix products of bf16 hardware."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        rounded = [_Round.apply(a) if isinstance(a, Tensor) else a for a in args]
        return _Round.apply(func(*rounded, **(kwargs or {})))


def best_scores(config: Config, how: str) -> dict[str, float]:
    """The dev scores at the epoch with the best overall score."""
    mode: AbstractContextManager[object] = Rounded() if how == "rounded" else nullcontext()
    precision = "bf16" if how == "autocast" else "fp32"
    update = {"train": config.train.model_copy(update={"precision": precision})}
    with tempfile.TemporaryDirectory() as folder, mode:
        identity = Identity("t", None, "b3", {})
        train(config.model_copy(update=update), Path(folder) / "t", identity=identity)
        records = TrialFolder(Path(folder) / "t").epochs()
    best = max(records, key=lambda record: record.metrics["dev/overall"])
    return {
        k: v for k, v in best.metrics.items() if k.startswith("dev/") and not k.endswith("loss")
    }


def main() -> None:
    """Train, then print a table."""
    given = _parse()
    torch.set_num_threads(given.threads)
    settings = [
        *(f"data.dir={given.data_dir}", "data.on_bad_rows=skip", "pretrain.enabled=false"),
        *("model.encoder=minilm", "model.pooling=mean", "optim.lr=1e-4"),
        *(f"data.train_fraction={given.train_fraction}", f"train.num_epochs={given.epochs}"),
    ]
    found: dict[str, list[dict[str, float]]] = {"fp32": [], given.how: []}
    for seed in range(given.seeds):
        config = resolve("b3", [*settings, f"seed={seed}"], {}).config
        for how, scores in found.items():
            scores.append(best_scores(config, how))
            print(seed, how, scores[-1], flush=True)
    print(f"{'metric':<28}{'fp32':>18}{given.how:>18}{'difference':>12}")
    for key in found["fp32"][0]:
        exact, rounded = ([scores[key] for scores in of] for of in found.values())
        cells = "".join(f"{f'{mean(x):.4f} ± {stdev(x):.4f}':>18}" for x in (exact, rounded))
        print(f"{key:<28}{cells}{mean(rounded) - mean(exact):>+12.4f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--how", choices=["rounded", "autocast"], default="rounded")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train-fraction", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
