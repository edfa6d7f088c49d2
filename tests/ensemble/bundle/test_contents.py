"""Contents with paths outside the folder and inconsistent contents are refused (promise S4)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lively import vouch
from written_bundle import ENCODER, ONE, TWO, contents, refusal, write

from ensemble.bundle.format import CARD, ENCODERS, ENSEMBLE, MEMBERS, Bundle
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST

OUTSIDE = [
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


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    edited = contents()
    edited["members"][name] = edited["members"].pop(TWO)
    for task in edited["tasks"].values():
        for share in task["members"]:
            share["member"] = share["member"].replace(TWO, name)
    assert "is not a path inside" in refusal(write(tmp_path / "bundle", edited))


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_encoder_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    edited = contents()
    edited["members"][TWO]["encoder"] = name
    if name == "":  # would be the folder of all encoders
        name = "encoders"
    assert "is not a path inside" in refusal(write(tmp_path / "bundle", edited))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listed_file_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"][CARD]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert "missing or not in manifest.json" in refusal(folder)


LOGITS, UNKNOWN = {"averaged": "logits"}, {"averaged": "ranks"}
CONSTANT = {"averaged": "standardised", "spread": 0.0}
EXTRA = {"averaged": "paper", "more": 1}


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
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=CONSTANT), "above 0"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=UNKNOWN), "averaged"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(transform=EXTRA), "nexpected"),
        (lambda c: c["tasks"]["sentiment"]["members"][0].update(member="x"), "no member 'x'"),
        (lambda c: c["tasks"]["sentiment"]["members"][1].update(member=ONE), "has a member twice"),
        (lambda c: c["tasks"]["sentiment"]["task"].update(num_classes=3), "was not trained on"),
        (lambda c: c["tasks"].update(other=c["tasks"]["sentiment"]), "was not trained on"),
        (lambda c: c["members"][ONE]["config"].update({"optim.x": 1}), "optim.x: no such key"),
        (lambda c: c["members"][TWO].update(encoder="other"), "'encoders/other/config.json' is mi"),
        (lambda c: c["members"][ONE].update(encoder=ENCODER), "'config.json' is not part of it"),
        (lambda c: c["members"].update(more=c["members"][ONE]), "'members/more/model.safetensors'"),
        (lambda c: c["members"].pop(ONE), "no member 's.0001.0002'"),
    ],
)
def test_inconsistent_contents_are_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    edited = contents()
    edit(edited)
    folder = write(tmp_path / "bundle", edited)
    with pytest.raises(IntegrityError, match=problem):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1}', "[" * 100_000, "\xff"])
def test_invalid_contents_are_refused(folder: Path, text: str) -> None:
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
def test_code_and_pickles_are_refused_although_the_manifest_lists_them(
    folder: Path, name: str
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"import os")
    vouch(folder)
    assert f"{name!r} is not part of it" in refusal(folder)
