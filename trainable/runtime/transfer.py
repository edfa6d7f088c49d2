"""Between the host and a device: all that a step or an evaluation copies goes through here."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The host's tensor [...], of any shape, on the device; a GPU is not waited for."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> NDArray[Any]:
    """A device's tensor [...] as the host's array: waits until the device has computed it."""
    values: NDArray[Any] = tensor.cpu().numpy()
    return values
