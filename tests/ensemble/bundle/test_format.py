"""The exported folder is what was written, or it is refused: promises S2 and S4."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemble.bundle.format import (
    CARD,
    ENCODERS,
    ENSEMBLE,
    FACTS,
    MAIN,
    MEMBERS,
    WEIGHTS,
    Bundle,
    Contents,
    MemberEntry,
    Share,
    TaskEntry,
    verify,
)
from ensemble.selection.combine import PAPER
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS

ONE, TWO, ENCODER = "s.0001.0002", "s.0002.0001", "0123456789ab"


def entry(trial: str, epoch: int, encoder: str) -> MemberEntry:
    config = from_flat({"data.tasks": ["sentiment", "paraphrase"]}).flat()
    return MemberEntry(
        run_id=f"run{trial}", sweep="s", trial=trial, epoch=epoch, encoder=encoder, config=config
    )


CONTENTS = Contents(
    schema_version=2,
    tasks={
        "sentiment": TaskEntry(
            task=PAPER_TASKS["sentiment"],
            members=(Share(member=ONE, weight=0.75), Share(member=TWO, weight=0.25)),
            scores={"selective": {"held_out": None, "in_sample": 0.6}},
        ),
        "paraphrase": TaskEntry(
            task=PAPER_TASKS["paraphrase"], members=(Share(member=TWO, weight=1.0),), scores={}
        ),
    },
    members={ONE: entry("0001", 2, MAIN), TWO: entry("0002", 1, ENCODER)},
)
FILES = {
    CARD: b"# card\n",
    "config.json": b'{"model_type": "bert" }',
    "tokenizer.json": b'{"model": {} }',
    WEIGHTS: bytes(range(50)),
    "pictures/gain.png": b"\x89PNG",
    f"{MEMBERS}/{ONE}/{WEIGHTS}": bytes(range(200)),
    f"{MEMBERS}/{TWO}/{WEIGHTS}": bytes(range(100, 255)),
    f"{ENCODERS}/{ENCODER}/config.json": b'{"model_type": "bert"}',
    f"{ENCODERS}/{ENCODER}/tokenizer.json": b'{"model": {}}',
    f"{ENCODERS}/{ENCODER}/vocab.txt": b"[PAD]\n",
    f"{ENCODERS}/{ENCODER}/{WEIGHTS}": bytes(range(60)),
}
ALL_FILES = [*FILES, ENSEMBLE, MANIFEST]


def write(folder: Path, contents: dict[str, Any] | None = None) -> Path:
    """A bundle whose manifest fits, whatever its contents say: anybody can write such a one."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    text = CONTENTS.to_json() if contents is None else json.dumps(contents)
    (folder / ENSEMBLE).write_text(text, encoding="utf-8")
    write_manifest(folder, FACTS)
    return folder


def vouch(folder: Path) -> None:
    """Make the manifest fit what the folder holds now."""
    (folder / MANIFEST).unlink()
    write_manifest(folder, FACTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def refusal(folder: Path) -> str:
    with pytest.raises(IntegrityError) as caught:
        Bundle.load(folder)
    assert caught.value.exit_code == 6
    assert caught.value.problem.isprintable()
    return caught.value.problem


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
    from trainable.model.multitask import WEIGHTS_FILE

    assert WEIGHTS == WEIGHTS_FILE


# S2: each file in turn.


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
    assert "not a whole bundle" in refusal(folder)


def test_no_bundle_there(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "manifest.json is missing" in refusal(tmp_path / "empty")


# S4, and contents that do not fit together: the manifest is right, what it vouches for is not.

LEADING_OUT = [
    "..",
    "../..",
    "../../../etc",
    "/etc",
    "~",
    "%2e%2e/%2e%2e",
    "%252e%252e/x",
    "..\\..\\x",
    "a\0b",
    "a/../../../b",
    "./x",
    "x//y",
    "",
    "file:///etc",
    "\u2025/\u2025",
    "x" * 2000,
]


def contents() -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(CONTENTS.to_json())
    return copy


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_member_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    edited = contents()
    edited["members"][name] = edited["members"].pop(TWO)
    for task in edited["tasks"].values():
        for share in task["members"]:
            share["member"] = share["member"].replace(TWO, name)
    assert "is not a path inside" in refusal(write(tmp_path / "bundle", edited))


@pytest.mark.parametrize("name", LEADING_OUT)
def test_an_encoder_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    edited = contents()
    edited["members"][TWO]["encoder"] = name
    if name == "":  # would be the folder of all encoders
        name = "encoders"
    assert "is not a path inside" in refusal(write(tmp_path / "bundle", edited))


def test_a_manifest_cannot_lead_out_of_the_folder(folder: Path) -> None:
    for name in LEADING_OUT:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name] = manifest["files"][CARD]
        text = json.dumps(manifest)
        changed = shutil.copytree(folder, folder.parent / f"copy{len(text)}", dirs_exist_ok=True)
        (changed / MANIFEST).write_text(text)
        refusal(changed)


def _both_one(content: dict[str, Any]) -> None:
    shares = content["tasks"]["sentiment"]["members"]
    shares[1]["member"] = ONE


LOGITS, OTHER = {"averaged": "logits"}, {"averaged": "ranks"}
FLAT, MORE = {"averaged": "standardised", "spread": 0.0}, {"averaged": "paper", "more": 1}


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda c: c.update(schema_version=3), "schema_version: Input should be 2"),
        (lambda c: c.update(schema_version=1), "schema_version: Input should be 2"),
        (lambda c: c.update(more=1), "more: Extra inputs are not permitted"),
        (lambda c: c.pop("members"), "members: Field required"),
        (lambda c: c.update(tasks={}), "tasks: .*at least 1"),
        (lambda c: c["tasks"]["sentiment"].update(members=[]), "at least 1"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(weight=-0.75), "is not above 0"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(weight=float("nan")), "finite"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(weight=0.7), "do not sum to 1"),
        (lambda c: c["tasks"]["sentiment"].update(intercept=[0.1]), r"1 number\(s\), not 5"),
        (lambda c: c["tasks"]["paraphrase"].update(intercept=[float("inf")]), "finite"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=LOGITS), "in different"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=FLAT), "above 0"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=OTHER), "averaged"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=MORE), "nexpected"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(member="x"), "no member 'x'"),
        (_both_one, "has a member twice"),
        (lambda c: c["tasks"]["sentiment"]["task"].update(num_classes=3), "was not trained on"),
        (lambda c: c["tasks"].update(other=c["tasks"]["sentiment"]), "was not trained on"),
        (lambda c: c["members"][ONE]["config"].update({"optim.x": 1}), "optim.x: no such key"),
        (lambda c: c["members"][TWO].update(encoder="other"), "'encoders/other/config.json' is mi"),
        (lambda c: c["members"][ONE].update(encoder=ENCODER), "'config.json' is no part of it"),
        (lambda c: c["members"].update(more=c["members"][ONE]), "'members/more/model.safetensors'"),
        (lambda c: c["members"].pop(ONE), "no member 's.0001.0002'"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    edited = contents()
    edit(edited)
    folder = write(tmp_path / "bundle", edited)
    with pytest.raises(IntegrityError, match=problem):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1}', "[" * 100_000, "\xff"])
def test_what_is_no_contents_is_refused(folder: Path, text: str) -> None:
    (folder / ENSEMBLE).write_text(text, encoding="latin-1")
    vouch(folder)
    assert "not a bundle's contents" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("model.py", "pytorch_model.bin", "pictures/page.html", "pictures/a.png/b.png"),
        *(f"{ENCODERS}/{ENCODER}/modeling.py", f"{MEMBERS}/{ONE}/pytorch_model.bin"),
    ],
)
def test_code_and_pickles_are_refused_though_the_manifest_vouches_for_them(
    folder: Path, name: str
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"import os")
    vouch(folder)
    assert f"{name!r} is no part of it" in refusal(folder)
