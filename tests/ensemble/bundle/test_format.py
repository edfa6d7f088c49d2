"""The exported folder is what was written, or it is refused: promises S2 and S4."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_bundle import CONTENTS, ENCODER, FILES, ONE, TWO, contents, refusal, write

from ensemble.bundle.format import (
    CARD,
    ENCODERS,
    ENSEMBLE,
    MEMBERS,
    WEIGHTS,
    Bundle,
    verify,
)
from ensemble.selection.combine import PAPER
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST

ALL_FILES = [*FILES, ENSEMBLE, MANIFEST]


def test_what_is_written_is_loaded(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.contents == CONTENTS
    assert list(bundle.contents.tasks) == ["sentiment", "paraphrase"]  # their order is kept
    assert bundle.weights_dir(ONE) == folder / MEMBERS / ONE
    assert bundle.encoder_dir(ONE) == folder
    assert bundle.encoder_dir(TWO) == folder / ENCODERS / ENCODER
    assert bundle.config(ONE).data.tasks == ("sentiment", "paraphrase")


def test_weights_of_a_linear_model_have_any_sign(tmp_path: Path) -> None:
    edited = contents()
    edited["tasks"]["sentiment"].update(intercept=[0.5, 0, 0, -0.1, 0])
    edited["tasks"]["sentiment"]["members"][0].update(weight=-3.5)
    bundle = Bundle.load(write(tmp_path / "bundle", edited))
    assert bundle.contents.tasks["sentiment"].intercept == (0.5, 0, 0, -0.1, 0)
    edited["tasks"]["sentiment"]["members"][0].update(weight=0)
    with pytest.raises(IntegrityError, match="a weight is 0"):
        Bundle.load(write(tmp_path / "other", edited))


def test_a_bundle_from_before_there_was_a_choice_averages_as_the_paper(tmp_path: Path) -> None:
    edited = contents()
    for task in edited["tasks"].values():
        del task["intercept"]
        for share in task["members"]:
            del share["transform"]
    loaded = Bundle.load(write(tmp_path / "bundle", edited)).contents
    assert loaded == CONTENTS
    assert loaded.tasks["sentiment"].members[0].transform == PAPER


def test_the_weights_are_named_as_training_names_them() -> None:
    from trainable.model.weight_files import WEIGHTS_FILE

    assert WEIGHTS == WEIGHTS_FILE


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_flipped_byte_anywhere_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    step = max(1, len(whole) // 97)
    places = {*range(0, len(whole), step), len(whole) - 1}
    for place in places:
        for mask in (0x01, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= mask
            path.write_bytes(changed)
            problem = refusal(folder)
            assert name in problem or name == MANIFEST, (place, mask)  # it may name another file
    path.write_bytes(whole)
    verify(folder)


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(lambda path: path.write_bytes(b""), id="emptied"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="cut"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"x"), id="longer"),
        pytest.param(lambda path: path.write_bytes(b"\0" * path.stat().st_size), id="zeroed"),
        pytest.param(lambda path: path.rename(path.with_name("other.json")), id="renamed"),
        pytest.param(lambda path: path.symlink_to(shutil.move(path, path.parents[3])), id="link"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="folder"),
        pytest.param(lambda path: (path.unlink(), os.mkfifo(path)), id="pipe"),
    ],
)
def test_every_file_must_be_as_it_was(
    tmp_path: Path, name: str, tamper: Callable[[Path], object]
) -> None:
    folder = write(tmp_path / "a" / "b" / "bundle")
    tamper(folder / name)
    assert Path(name).name in refusal(folder)


def test_what_came_back_from_the_hub_is_loaded(folder: Path) -> None:
    for name in (".gitattributes", ".DS_Store", ".cache/huggingface/download/x.lock", ".git/HEAD"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    Bundle.load(folder)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 50\n"
    (folder / WEIGHTS).write_bytes(pointer)
    assert f"git-lfs pointers in place of the files (git lfs pull): {WEIGHTS}" in refusal(folder)


def test_two_files_swapped_are_refused(folder: Path) -> None:
    one, two = (folder / MEMBERS / member / WEIGHTS for member in (ONE, TWO))
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    problem = refusal(folder)
    assert ONE in problem
    assert TWO in problem


@pytest.mark.parametrize(
    "name",
    [
        "extra.txt",
        "evil.py",
        f"{MEMBERS}/{ONE}/extra.safetensors",
        f"{MEMBERS}/other/{WEIGHTS}",
        f"{ENCODERS}/{ENCODER}/modeling.py",
        ".hidden",
        "\x1b[2Jclear",
    ],
)
def test_an_extra_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert "not in manifest.json" in refusal(folder)


def test_an_extra_link_to_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    assert "elsewhere" in refusal(folder)


def _drop(manifest: dict[str, Any]) -> None:
    del manifest["files"][CARD]


def _add(manifest: dict[str, Any]) -> None:
    manifest["files"]["none.txt"] = manifest["files"][CARD]


def _swap(manifest: dict[str, Any]) -> None:
    files = manifest["files"]
    files[CARD], files[ENSEMBLE] = files[ENSEMBLE], files[CARD]


@pytest.mark.parametrize(
    "edit",
    [
        _drop,
        _add,
        _swap,
        lambda manifest: manifest["files"][CARD].update(size=8),
        lambda manifest: manifest["files"][CARD].update(sha256="0" * 64),
        lambda manifest: manifest["files"].update({CARD: None}),
        lambda manifest: manifest["files"].clear(),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(format="something-else"),
        lambda manifest: manifest.update(schema_version=1),
        lambda manifest: manifest.update(schema_version=3),
        lambda manifest: manifest.update(more=1),
        lambda manifest: manifest.clear(),
    ],
)
def test_an_edited_manifest_is_refused(
    folder: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert "manifest.json" in refusal(folder) or CARD in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "1", '"files"', "{", "[" * 100_000, "\xff"])
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    assert "not an intact bundle" in refusal(folder)


def test_no_bundle_there(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "manifest.json is missing" in refusal(tmp_path / "empty")
