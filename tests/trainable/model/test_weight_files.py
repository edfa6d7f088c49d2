"""Weight files: read exactly as written, with one file for equal encoders."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainable.model.weight_files import (
    ENCODER_FILE,
    WEIGHTS_FILE,
    read_weights,
    weights_fingerprint,
    write_weights,
)

Weights = dict[str, Tensor]


def weights(encoder: float = 1.0, head: float = 0.0) -> Weights:
    return {
        "encoder.norm": torch.tensor([math.nan, -0.0, encoder]),
        "encoder.embeddings": torch.ones(50, 4).T,
        "encoder.count": torch.tensor(3),
        "heads.mood.weight": torch.full((2, 4), head, dtype=torch.float64),
    }


def written(folder: Path, content: Weights, *kept: Path, shared: Path | None = None) -> Path:
    folder.mkdir()
    write_weights(content, folder, kept, shared)
    return folder


def is_one_file(*folders: Path) -> bool:
    return len({(folder / ENCODER_FILE).stat().st_ino for folder in folders}) == 1


def assert_holds(folder: Path, content: Weights) -> None:
    found = read_weights(folder)
    assert weights_fingerprint(dict(sorted(found.items()))) == weights_fingerprint(
        dict(sorted(content.items()))
    )
    assert {name: (v.dtype, v.shape) for name, v in found.items()} == {
        name: (v.dtype, v.shape) for name, v in content.items()
    }


def changes() -> Iterator[tuple[str, Weights]]:
    yield "a value", weights(encoder=1.5)
    yield "a sign of zero", weights() | {"encoder.norm": torch.tensor([math.nan, 0.0, 1.0])}
    yield "a type", weights() | {"encoder.count": torch.tensor(3, dtype=torch.int32)}
    yield "a shape", weights() | {"encoder.embeddings": torch.ones(50, 4)}
    yield "a further name", weights() | {"encoder.more": torch.ones(1)}
    yield "a missing name", {k: v for k, v in weights().items() if k != "encoder.count"}


def test_equal_encoders_are_one_file(tmp_path: Path) -> None:
    first, other = written(tmp_path / "1", weights()), written(tmp_path / "2", weights(2.0))
    third = written(tmp_path / "3", weights(head=1.0), other, first)
    assert is_one_file(first, third)
    assert not is_one_file(first, other)
    assert (first / WEIGHTS_FILE).read_bytes() != (third / WEIGHTS_FILE).read_bytes()
    assert_holds(third, weights(head=1.0))
    assert_holds(other, weights(2.0))
    shutil.rmtree(first)
    assert_holds(third, weights(head=1.0))


@pytest.mark.parametrize(("change", "content"), changes())
def test_different_encoders_are_different_files(
    tmp_path: Path, change: str, content: Weights
) -> None:
    first = written(tmp_path / "1", weights())
    second = written(tmp_path / "2", content, first, shared=tmp_path / "shared")
    assert not is_one_file(first, second), change
    assert_holds(second, content)
    assert_holds(first, weights())


def test_trials_share_an_encoder_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    shared = tmp_path / "deep" / "shared"
    one, two = (written(tmp_path / name, weights(), shared=shared) for name in "12")
    assert is_one_file(one, two)
    (file,) = shared.iterdir()
    assert file.stat().st_nlink == 3
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1] + b"x")
    three, four = (written(tmp_path / name, weights(), shared=shared) for name in "34")
    assert is_one_file(three, four)
    assert not is_one_file(one, three)
    for folder in (one, two, three, four):
        assert_holds(folder, weights())
    assert [path.name for path in shared.iterdir()] == [file.name]


def test_without_hard_links_encoders_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    shared = tmp_path / "shared"
    first = written(tmp_path / "1", weights(), shared=shared)
    second = written(tmp_path / "2", weights(), first, shared=shared)
    assert not is_one_file(first, second)
    assert not list(shared.iterdir())
    assert_holds(first, weights())
    assert_holds(second, weights())


@pytest.mark.parametrize("damage", ["link", "missing", "no weights"])
def test_an_encoder_file_that_cannot_be_linked_is_written(tmp_path: Path, damage: str) -> None:
    first = written(tmp_path / "1", weights())
    file = first / ENCODER_FILE
    if damage == "link":
        file.rename(tmp_path / "outside")
        file.symlink_to(tmp_path / "outside")
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"none")
    second = written(tmp_path / "2", weights(), first)
    assert not (second / ENCODER_FILE).is_symlink()
    assert_holds(second, weights())


def test_weights_in_one_file_are_read(tmp_path: Path) -> None:
    """Earlier releases wrote them."""
    content = {name: value.contiguous() for name, value in weights().items()}
    save_file(content, tmp_path / WEIGHTS_FILE)
    assert_holds(tmp_path, content)
