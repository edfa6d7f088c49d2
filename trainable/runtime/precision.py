"""Where a model runs, and in which precision its matrices are multiplied.

Weights, gradients' sums, losses and the optimizer are float32 throughout; autocast rounds what goes
into matrix products and nothing else that matters.
"""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from mlflow_setup.errors import ConfigError

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str, num_bytes: int = 0) -> torch.device:
    """`auto` is the CUDA device if there is one.

    Args:
        num_bytes: what will surely be needed of its memory.

    Raises:
        ConfigError: `cuda` is wanted and there is none, or others hold too much of its memory.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "train.device=cuda: this process has no CUDA device",
                fix="train.device=auto, or give trials one: resources.gpus_per_trial=1",
            )
        free, total = torch.cuda.mem_get_info()
        if free + torch.cuda.memory_reserved() < num_bytes:  # what is reserved is ours to use
            raise ConfigError(
                f"{torch.cuda.get_device_name()}: {free / 1e9:.1f} of {total / 1e9:.1f} GB are "
                f"free, and {num_bytes / 1e9:.1f} GB are needed at the least",
                fix="end what holds the rest (nvidia-smi lists it), or train on another device",
            )
    return torch.device(wanted)


def training_bytes(model: torch.nn.Module) -> int:
    """What training needs at the least: the weights, and of those that learn gradients and AdamW's
    two moments, in float32."""
    return sum(4 * (4 if p.requires_grad else 1) * p.numel() for p in model.parameters())


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """What autocast rounds to; float32: nothing is rounded.

    `auto` is bf16 where the device multiplies it in hardware, fp16 on a GPU that does not, float32
    on other CPUs. `tf32` rounds inside a GPU's float32 products, which `fp32` forbids: this sets
    torch's switch for the process.
    """
    if wanted == "auto":
        wanted = _fastest(device)
    torch.backends.cuda.matmul.fp32_precision = "tf32" if wanted == "tf32" else "ieee"
    return _DTYPES.get(wanted, torch.float32)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Matrix products in `precision`; nothing is changed for float32."""
    is_rounded = precision is not torch.float32
    rounded_to = precision if is_rounded else torch.bfloat16
    return torch.autocast(device.type, rounded_to, enabled=is_rounded)


def _fastest(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_has_amx() else "fp32"


def _cpu_has_amx() -> bool:
    """Whether this CPU has matrix tiles; AVX-512's bf16 alone is no faster than float32."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())


def to_float32(x: Tensor) -> Tensor:
    """[...] of any shape: half precisions become float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
