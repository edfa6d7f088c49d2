"""How many threads, and whether a GPU, a trial may use: said before torch is loaded."""

import os


def limit_threads(num_threads: int, num_gpus: float) -> None:
    """A trial never sees more threads than its CPUs, nor a GPU that it was not given."""
    limit_environment(num_threads, num_gpus)
    import torch

    torch.set_num_threads(num_threads)


def limit_environment(num_threads: int, num_gpus: float) -> None:
    """The same for what is loaded from now on."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
