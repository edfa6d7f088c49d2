"""Limits on a trial's threads and GPUs, set before torch is imported."""

import os


def limit_threads(num_threads: int, num_gpus: float) -> None:
    """Limit numeric libraries to `num_threads`, and hide all GPUs if `num_gpus` is 0."""
    limit_environment(num_threads, num_gpus)
    import torch

    torch.set_num_threads(num_threads)


def limit_environment(num_threads: int, num_gpus: float) -> None:
    """Set the limits in the environment only, for libraries that are not imported yet."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
