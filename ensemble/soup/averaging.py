"""Weight-space soups: one model from the mean of several models' weights.

It works where the models have been trained from one start and have not gone far apart: then their
weights lie in one valley of the loss (Wortsman et al. 2022, "Model soups", arXiv 2203.05482).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlflow_setup.errors import IntegrityError

Ingredient = TypeVar("Ingredient")


def average_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of safetensors files, tensor by tensor, each of the shape [...] that all files give
    it; whole numbers have to be equal.

    Raises:
        IntegrityError: a file cannot be read, or they differ in names, shapes or whole numbers.
    """
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        except (OSError, SafetensorError) as error:
            raise IntegrityError(f"weights cannot be read: {error}") from None
        names = [set(file.keys()) for file in files]
        for path, of_file in zip(paths, names, strict=True):
            if of_file != names[0]:
                raise IntegrityError(f"{path}: other weights than {paths[0]} has")
        return {
            name: _mean(name, [file.get_tensor(name) for file in files], paths)
            for name in sorted(names[0])
        }


def greedy_soup(
    candidates: Sequence[Ingredient], score: Callable[[Sequence[Ingredient]], float]
) -> list[Ingredient]:
    """Go through the candidates, the best first: one is kept where the soup is no worse for it.

    Args:
        candidates: the best first, at least one.
        score: of the soup of some of them; higher is better.
    """
    kept = [candidates[0]]
    best = score(kept)
    for candidate in candidates[1:]:
        grown = score([*kept, candidate])
        if grown >= best:
            kept, best = [*kept, candidate], grown
    return kept


def _mean(name: str, tensors: Sequence[Tensor], paths: Sequence[Path]) -> Tensor:
    first = tensors[0]
    for path, tensor in zip(paths, tensors, strict=True):
        is_alike = tensor.shape == first.shape and tensor.dtype == first.dtype
        if not is_alike or (not first.is_floating_point() and not torch.equal(tensor, first)):
            raise IntegrityError(f"{path}: {name} is not to be averaged with that of {paths[0]}")
    if not first.is_floating_point():
        return first
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(first.dtype)
