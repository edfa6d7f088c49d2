"""A sweep of tasks of each kind that the paper does not have, from import to predictions."""

import csv
import json
import random
import subprocess
from pathlib import Path

import pytest
import yaml
from fault_table import Table
from real_sweep import end, ensweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("test_kinds.py tests each kind from import to predictions in one process"),
]
MOODS = {"glad": "bright", "calm": "slow", "angry": "bad"}
KINDS = ("pair_classification", "regression", "multilabel")


def _row(kind: str, draw: random.Random) -> list[str]:
    """Sentences, and a label that follows from their words."""
    moods = draw.sample(list(MOODS), draw.randint(0, 3))
    text = " ".join(["the film", *(MOODS[mood] for mood in moods), draw.choice(["well", "fast"])])
    if kind == "multilabel":
        return [text, "|".join(moods)]
    if kind == "regression":
        return [text, str(("glad" in moods) - ("angry" in moods))]
    alike = draw.choice(["same", "alike", "apart"])
    other = {"same": text, "alike": f"{text} good", "apart": "how do i cook bread"}[alike]
    return [text, other, alike]


@pytest.fixture
def folder(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A folder with imported data of each kind, and the file of a sweep of all three tasks."""
    draw = random.Random(0)
    for kind in KINDS:
        rows = [_row(kind, draw) for _ in range(160)]
        texts = [f"text{number}" for number in range(len(rows[0]) - 1)]
        with (tmp_path / f"{kind}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([[*texts, "label"], *rows])
        sentences = [word for text in texts for word in ("--sentence", text)]
        words = ["--kind", kind, "--label", "label", *sentences, "--output", str(tmp_path / "data")]
        if kind == "regression":
            words += ["--min-score", "-1", "--max-score", "1"]
        end(ensweep("data", "import", str(tmp_path / f"{kind}.csv"), *words))
    content = {
        "recipe": "baseline",
        "config": {
            "data.dir": "data",  # beside the file
            "model.encoder": str(tiny_encoder),
            "model.pooling": "mean",
            "model.fcn_size": 8,
            "train.num_epochs": 2,
            "train.precision": "fp32",
        },
        "space": {"optim.lr": {"type": "float", "low": 3e-3, "high": 3e-2, "log": True}},
        "search": {"num_samples": 3},
    }
    (tmp_path / "kinds.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.mark.promise(
    "kinds",
    "none: regression, pairs of three classes and sets of labels, imported and swept together",
    "swept, ensembled, reported, exported; the bundle predicts each task (tiny BERT)",
)
def test_each_kind_from_sweep_to_predictions(folder: Path, table: Table) -> None:
    table.played(len(KINDS))
    storage = ["--storage", str(folder / "runs")]
    end(ensweep("sweep", str(folder / "kinds.yaml"), "--name", "kinds", *storage))
    board = json.loads(_stdout("leaderboard", "kinds", "--json", *storage))["trials"]
    assert {row["outcome"] for row in board} <= {"finished", "pruned"}
    assert len(board) == 5
    chosen = json.loads(_stdout("ensemble", "kinds", "--json", *storage))["tasks"]
    assert set(chosen) == set(KINDS)
    end(ensweep("report", "kinds", *storage))
    bundle = str(folder / "bundle")
    end(ensweep("export", "kinds", "--output", bundle, *storage))
    scores = json.loads(_stdout("evaluate", bundle, "--data-dir", str(folder / "data"), "--json"))
    assert all(scores["scores"][kind] > 0.3 for kind in KINDS), scores
    answers = {
        "pair_classification": ["--text", "the film bad", "--text2", "the film bad"],
        "regression": ["--text", "the film bad"],
        "multilabel": ["--text", "the film bad"],
    }
    for task, texts in answers.items():
        row = json.loads(_stdout("predict", bundle, "--task", task, *texts, "--json"))
        assert "label" in row["predictions"][0]


def _stdout(*words: str) -> str:
    process = ensweep(*words, stderr=subprocess.DEVNULL)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, words
    return text
