"""A bundle is loaded as it was written, or refused (promises S2 and S4)."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_bundle import CONTENTS, ENCODER, FILES, ONE, TWO, contents, refusal, write

from ensemble.bundle.format import CARD, ENCODERS, ENSEMBLE, MEMBERS, WEIGHTS, Bundle, verify
from ensemble.selection.combine import PAPER
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST
from trainable.model.weight_files import WEIGHTS_FILE

ALL_FILES = [*FILES, ENSEMBLE, MANIFEST]


def test_a_written_bundle_is_loaded(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.contents == CONTENTS
    assert list(bundle.contents.tasks) == ["sentiment", "paraphrase"]  # their order is kept
    assert bundle.weights_dir(ONE) == folder / MEMBERS / ONE
    assert bundle.encoder_dir(ONE) == folder
    assert bundle.encoder_dir(TWO) == folder / ENCODERS / ENCODER
    assert bundle.config(ONE).data.tasks == ("sentiment", "paraphrase")


def test_weights_of_a_linear_model_may_be_negative_but_not_zero(tmp_path: Path) -> None:
    edited = contents()
    edited["tasks"]["sentiment"].update(intercept=[0.5, 0, 0, -0.1, 0])
    edited["tasks"]["sentiment"]["members"][0].update(weight=-3.5)
    bundle = Bundle.load(write(tmp_path / "bundle", edited))
    assert bundle.contents.tasks["sentiment"].intercept == (0.5, 0, 0, -0.1, 0)
    edited["tasks"]["sentiment"]["members"][0].update(weight=0)
    with pytest.raises(IntegrityError, match="a weight is 0"):
        Bundle.load(write(tmp_path / "other", edited))


def test_a_bundle_without_transforms_averages_as_the_paper(tmp_path: Path) -> None:
    edited = contents()
    for task in edited["tasks"].values():
        del task["intercept"]
        for share in task["members"]:
            del share["transform"]
    loaded = Bundle.load(write(tmp_path / "bundle", edited)).contents
    assert loaded == CONTENTS
    assert loaded.tasks["sentiment"].members[0].transform == PAPER


def test_weights_have_the_file_name_of_training() -> None:
    assert WEIGHTS == WEIGHTS_FILE


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_changed_byte_in_any_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    step = max(1, len(content) // 97)
    positions = {*range(0, len(content), step), len(content) - 1}
    for position in positions:
        for mask in (0x01, 0xFF):
            changed = bytearray(content)
            changed[position] ^= mask
            path.write_bytes(changed)
            problem = refusal(folder)
            assert name in problem or name == MANIFEST, (
                position,
                mask,
            )  # a changed manifest may name another file
    path.write_bytes(content)
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
def test_a_changed_file_is_refused(
    tmp_path: Path, name: str, tamper: Callable[[Path], object]
) -> None:
    folder = write(tmp_path / "a" / "b" / "bundle")
    tamper(folder / name)
    assert Path(name).name in refusal(folder)


def test_a_bundle_downloaded_from_the_hub_is_loaded(folder: Path) -> None:
    for name in (".gitattributes", ".DS_Store", ".cache/huggingface/download/x.lock", ".git/HEAD"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    Bundle.load(folder)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 50\n"
    (folder / WEIGHTS).write_bytes(pointer)
    assert f"git-lfs pointers in place of the files (git lfs pull): {WEIGHTS}" in refusal(folder)


def test_swapped_files_are_refused(folder: Path) -> None:
    one, two = (folder / MEMBERS / member / WEIGHTS for member in (ONE, TWO))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
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


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["files"].pop(CARD),
        lambda m: m["files"].update({"none.txt": m["files"][CARD]}),
        lambda m: m["files"].update({CARD: m["files"][ENSEMBLE], ENSEMBLE: m["files"][CARD]}),
        lambda m: m["files"][CARD].update(size=8),
        lambda m: m["files"][CARD].update(sha256="0" * 64),
        lambda m: m["files"].update({CARD: None}),
        lambda m: m["files"].clear(),
        lambda m: m.update(files=[]),
        lambda m: m.update(format="something-else"),
        lambda m: m.update(schema_version=1),
        lambda m: m.update(schema_version=3),
        lambda m: m.update(more=1),
        lambda m: m.clear(),
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
def test_an_invalid_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    assert "not an intact bundle" in refusal(folder)


def test_a_missing_bundle_is_reported(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "manifest.json is missing" in refusal(tmp_path / "empty")
