"""The device that a model runs on, and the precision of its matrix products.

Weights, accumulated gradients, losses and optimizer states are always float32; autocast rounds the
inputs of matrix products.
"""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from mlflow_setup.errors import ConfigError

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(setting: str, num_bytes: int = 0) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; `auto` is CUDA where it is available.

    Args:
        num_bytes: a lower bound of the device memory that is needed.

    Raises:
        ConfigError: CUDA is requested and not available, or has less than `num_bytes` free.
    """
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    if setting == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "train.device=cuda: this process has no CUDA device",
                fix="train.device=auto, or give trials one: resources.gpus_per_trial=1",
            )
        free, total = torch.cuda.mem_get_info()
        if free + torch.cuda.memory_reserved() < num_bytes:  # this process can reuse its reserve
            raise ConfigError(
                f"{torch.cuda.get_device_name()}: {free / 1e9:.1f} of {total / 1e9:.1f} GB are "
                f"free, and {num_bytes / 1e9:.1f} GB are needed at least",
                fix="end the processes that use the rest (nvidia-smi lists them), or train on "
                "another device",
            )
    return torch.device(setting)


def training_bytes(model: torch.nn.Module) -> int:
    """The least memory that training takes: all weights in float32, and for each trainable weight
    its gradient and AdamW's two moments."""
    return sum(4 * (4 if p.requires_grad else 1) * p.numel() for p in model.parameters())


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """Return the dtype for `autocast`; float32 means no autocast.

    `auto` is bf16 where the device multiplies it in hardware, fp16 on a GPU that does not, float32
    on other CPUs. `tf32` allows TF32 in a GPU's float32 products and `fp32` forbids it, by
    PyTorch's switch for the whole process.
    """
    if setting == "auto":
        setting = _fastest(device)
    torch.backends.cuda.matmul.fp32_precision = "tf32" if setting == "tf32" else "ieee"
    return _DTYPES.get(setting, torch.float32)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """A context in which matrix products run in `precision`; float32 changes nothing."""
    is_enabled = precision is not torch.float32
    return torch.autocast(
        device.type, precision if is_enabled else torch.bfloat16, enabled=is_enabled
    )


def _fastest(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_has_amx() else "fp32"


def _cpu_has_amx() -> bool:
    """Whether this CPU has AMX; bf16 by AVX-512 alone is no faster than float32."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())


def to_float32(x: Tensor) -> Tensor:
    """`x` [...] with bfloat16 and float16 converted to float32; other dtypes are unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
