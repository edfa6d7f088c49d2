"""Checkpoints: read exactly as saved, the newest two kept, damaged ones quarantined."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest
from mlflow_setup.filesystem.storage import TEMPORARY
from trainable.storage.checkpoint import load_newest, save_checkpoint


def state(step: int) -> dict[str, Any]:
    """A state like that of a training loop, which depends on the step."""
    draw = torch.Generator().manual_seed(step)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return {
        "step": step,
        "weight": torch.randn(40, 40, generator=draw),
        "optimizer": optimizer.state_dict(),
        "rng": {"torch": torch.get_rng_state(), "python": [3, [1, 2], None]},
    }


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, state(step))


def newest_step(folder: Path, *fits: Callable[[dict[str, Any]], bool]) -> int | None:
    """The step of the checkpoint that is loaded."""
    found = load_newest(folder, *fits)
    return None if found is None else found[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_read_exactly_as_saved(tmp_path: Path) -> None:
    written = state(7)
    save_checkpoint(tmp_path / "checkpoint", 7, written)
    found = load_newest(tmp_path / "checkpoint")
    assert found is not None
    step, read = found
    assert step == read["step"] == 7
    assert torch.equal(read["weight"], written["weight"])
    assert torch.equal(read["rng"]["torch"], written["rng"]["torch"])
    assert read["rng"]["python"] == [3, [1, 2], None]
    assert read["optimizer"]["param_groups"] == written["optimizer"]["param_groups"]
    assert torch.equal(
        read["optimizer"]["state"][0]["exp_avg"], written["optimizer"]["state"][0]["exp_avg"]
    )


def test_a_folder_without_checkpoints_gives_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent") is None
    assert load_newest(tmp_path) is None
    assert not (tmp_path / "absent").exists()


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 9, 10, 100, 1000)
    assert names(tmp_path) == ["00000100", "00001000"]
    assert names(tmp_path / "00001000") == [MANIFEST, "state.pt"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999, 100_000_000)
    assert newest_step(tmp_path) == 100_000_000


def test_the_checkpoint_of_a_step_is_not_written_again(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = (tmp_path / "00000001" / "state.pt").stat()
    save(tmp_path, 1)
    assert (tmp_path / "00000001" / "state.pt").stat() == before


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / f"{TEMPORARY}crashed").mkdir()
    (tmp_path / f"{TEMPORARY}crashed" / "state.pt").write_bytes(b"half")
    (tmp_path / f"{TEMPORARY}file").touch()
    assert newest_step(tmp_path) == 1
    assert names(tmp_path) == ["00000001"]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def zero_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:2048] + bytes(2048) + content[4096:])


def rewrite_manifest(checkpoint: Path, facts: dict[str, Any]) -> None:
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint, facts)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "first bit flipped": (lambda path: flip(path / "state.pt", 0), "changed since .*state.pt"),
    "last bit flipped": (lambda path: flip(path / "state.pt", -1), "changed since .*state.pt"),
    "truncated": (
        lambda path: (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-1]),
        "changed since .*state.pt",
    ),
    "emptied": (lambda path: (path / "state.pt").write_bytes(b""), "changed since .*state.pt"),
    "zeroed page": (lambda path: zero_page(path / "state.pt"), "changed since .*state.pt"),
    "state missing": (lambda path: (path / "state.pt").unlink(), "state.pt is missing"),
    "state and manifest swapped": (
        lambda path: swap(path / "state.pt", path / MANIFEST),
        "not a manifest",
    ),
    "manifest missing": (lambda path: (path / MANIFEST).unlink(), "manifest.json is missing"),
    "manifest truncated": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text()[:-3]),
        "not a manifest",
    ),
    "manifest of the previous one": (
        lambda path: shutil.copy(path.parent / "00000001" / MANIFEST, path / MANIFEST),
        "is of {'step': 1}, not of {'step': 2}",
    ),
    "manifest of another program": (
        lambda path: (path / MANIFEST).write_text('{"version": 1, "files": []}'),
        "is of {'version': 1}",
    ),
    "state of another step": (
        lambda path: rewrite_manifest(path, {"step": 1}),
        "is of {'step': 1}",
    ),
    "manifest without files": (
        lambda path: (
            (path / "state.pt").unlink(),
            (path / MANIFEST).write_text(json.dumps({"step": 2, "files": {}})),
        ),
        "state.pt is missing",
    ),
    "extra file": (lambda path: (path / "extra").touch(), "not in manifest.json: extra"),
    "extra folder": (
        lambda path: shutil.copytree(path.parent / "00000001", path / "extra"),
        "not in manifest.json: extra/manifest.json, extra/state.pt",
    ),
    "all files missing": (
        lambda path: [file.unlink() for file in path.iterdir()],
        "state.pt is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_quarantined_and_the_previous_one_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    damage, reason = DAMAGE[name]
    save(tmp_path, 1, 2)
    damage(tmp_path / "00000002")
    damaged = {path.name: path.stat().st_size for path in (tmp_path / "00000002").iterdir()}
    with caplog.at_level(logging.WARNING):
        found = load_newest(tmp_path)
    assert found is not None
    assert found[0] == found[1]["step"] == 1
    assert torch.equal(found[1]["weight"], state(1)["weight"])
    kept = tmp_path / "quarantine" / "00000002-0"
    assert {path.name: path.stat().st_size for path in kept.iterdir()} == damaged
    assert names(tmp_path) == ["00000001", "quarantine"]
    (message,) = caplog.messages
    assert str(tmp_path / "00000002") in message
    assert re.search(reason, message)


def test_checkpoints_with_swapped_states_are_both_quarantined(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    swap(tmp_path / "00000001" / "state.pt", tmp_path / "00000002" / "state.pt")
    assert load_newest(tmp_path) is None
    assert names(tmp_path / "quarantine") == ["00000001-0", "00000002-0"]


def test_quarantined_checkpoints_are_not_overwritten(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, 1)
        (tmp_path / "00000001" / "state.pt").write_text(f"damage {number}")
        assert load_newest(tmp_path) is None
        if number == 1:
            shutil.rmtree(tmp_path / "quarantine" / "00000001-0")
    kept = {
        path.name: (path / "state.pt").read_text() for path in (tmp_path / "quarantine").iterdir()
    }
    assert kept == {"00000001-0": "damage 2", "00000001-1": "damage 1"}


def test_a_temporary_read_error_does_not_quarantine(
    tmp_path: Path, too_many_open_files: Callable[[], AbstractContextManager[None]]
) -> None:
    save(tmp_path, 1, 2)
    with (
        pytest.raises((OSError, IntegrityError), match="Too many open files"),
        too_many_open_files(),
    ):
        load_newest(tmp_path)
    assert names(tmp_path) == ["00000001", "00000002"]
    assert newest_step(tmp_path) == 2


def test_checkpoints_can_be_saved_after_damage(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    flip(tmp_path / "00000002" / "state.pt", 100)
    load_newest(tmp_path)
    save(tmp_path, 2, 3)
    assert newest_step(tmp_path) == 3
    assert names(tmp_path) == ["00000002", "00000003", "quarantine"]


def test_a_link_is_not_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "other", 5)
    save(tmp_path / "checkpoint", 1)
    (tmp_path / "checkpoint" / "00000005").symlink_to(tmp_path / "other" / "00000005")
    assert newest_step(tmp_path / "checkpoint") == 1


def test_a_state_with_objects_is_refused_and_kept(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save_checkpoint(tmp_path, 2, {"step": Path("an object")})
    with pytest.raises(
        IntegrityError, match=r"state.pt: not a checkpoint of plain values"
    ) as refused:
        load_newest(tmp_path)
    assert refused.value.fix == (
        f"remove {tmp_path / '00000002'} to resume from the previous checkpoint"
    )
    assert names(tmp_path) == ["00000001", "00000002"]


def test_checkpoints_that_do_not_fit_the_records_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    assert newest_step(tmp_path, lambda state: state["step"] <= 1) == 1
    assert names(tmp_path) == ["00000001"]
    assert newest_step(tmp_path, lambda state: False) is None
    assert names(tmp_path) == []
