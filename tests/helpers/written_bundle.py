"""Write a bundle's files without models."""

import json
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
)
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import write_manifest
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


def write(folder: Path, contents: dict[str, Any] | None = None) -> Path:
    """Write a bundle whose manifest matches its contents, as an attacker could."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    text = CONTENTS.to_json() if contents is None else json.dumps(contents)
    (folder / ENSEMBLE).write_text(text, encoding="utf-8")
    write_manifest(folder, FACTS)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(IntegrityError) as caught:
        Bundle.load(folder)
    assert caught.value.exit_code == 6
    assert caught.value.problem.isprintable()
    return caught.value.problem


def contents() -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(CONTENTS.to_json())
    return copy
