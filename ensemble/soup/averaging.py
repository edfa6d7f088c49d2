"""Model soups: one model whose weights are the mean of several models' weights.

This works for models fine-tuned from the same initialisation that have stayed close to each other,
so that they are in the same low-loss region (Wortsman et al. 2022, "Model soups", arXiv
2203.05482).
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
    """Return the mean of each tensor over safetensors files, in its shape [...], which must be the
    same in all of them; integer tensors must be equal.

    Raises:
        IntegrityError: a file cannot be read, or the files differ in names, shapes or integers.
    """
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        except (OSError, SafetensorError) as error:
            raise IntegrityError(f"weights cannot be read: {error}") from None
        names = [set(file.keys()) for file in files]
        for path, of_file in zip(paths, names, strict=True):
            if of_file != names[0]:
                raise IntegrityError(f"{path}: its tensors have other names than in {paths[0]}")
        return {
            name: _mean(name, [file.get_tensor(name) for file in files], paths)
            for name in sorted(names[0])
        }


def greedy_soup(
    candidates: Sequence[Ingredient], score: Callable[[Sequence[Ingredient]], float]
) -> list[Ingredient]:
    """Return the ingredients of a greedy soup: each candidate in turn is added if the soup's score
    does not fall.

    Args:
        candidates: the best first, at least one.
        score: returns the score of a soup of some candidates; higher is better.
    """
    kept = [candidates[0]]
    best = score(kept)
    for candidate in candidates[1:]:
        with_it = score([*kept, candidate])
        if with_it >= best:
            kept, best = [*kept, candidate], with_it
    return kept


def _mean(name: str, tensors: Sequence[Tensor], paths: Sequence[Path]) -> Tensor:
    first = tensors[0]
    for path, tensor in zip(paths, tensors, strict=True):
        is_same_type = tensor.shape == first.shape and tensor.dtype == first.dtype
        if not is_same_type or (not first.is_floating_point() and not torch.equal(tensor, first)):
            raise IntegrityError(f"{path}: {name} cannot be averaged with that of {paths[0]}")
    if not first.is_floating_point():
        return first
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(first.dtype)
