"""Copies between host and device memory, for training steps and evaluation."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor [...] to the device, without waiting for a GPU."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> NDArray[Any]:
    """Copy a device tensor [...] to a host array; waits until the device has computed it."""
    values: NDArray[Any] = tensor.cpu().numpy()
    return values
