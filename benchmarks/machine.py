"""Facts about the machine of a benchmark (name, matrix product rate, memory), and an encoder."""

import time
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from trainable.batches.tokenization import load_tokenizer
from trainable.runtime.precision import choose_device


def machine() -> str:
    """The name of the GPU, or of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


def wait() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Peak memory of this process in bytes. `getrusage` would include the parent's, on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def matrix_rate(precision: str) -> float:
    """FLOP/s of a 1024 x 1024 x 1024 matrix product on this machine: the best of 20."""
    device = choose_device("auto")
    size, dtype = (
        (1024 if device.type == "cpu" else 8192),
        {"bf16": torch.bfloat16, "fp16": torch.float16},
    )
    a, b = (
        torch.randn(size, size, device=device).to(dtype.get(precision, torch.float32)) for _ in "ab"
    )
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def write_random_encoder(folder: Path, tokenizer: str = "minilm", num_layers: int = 12) -> Path:
    """Write an encoder of BERT-base's size with `num_layers` layers and random weights, to time
    it."""
    torch.manual_seed(0)
    BertModel(BertConfig(num_hidden_layers=num_layers)).save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)
    return folder
