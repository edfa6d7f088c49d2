"""A user's own task, declared in YAML: trained, swept, ensembled, exported and predicted."""

import contextlib
import csv
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app

pytestmark = pytest.mark.slow

MOODS = {"calm": ["warm", "slow", "good"], "angry": ["bad", "dull"], "glad": ["bright", "fast"]}


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """Comma-separated files with columns of their own, a recipe and a sweep."""
    draw = random.Random(0)
    for split, size in {"train": 48, "dev": 40}.items():
        with (tmp_path / f"mood-{split}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["mood", "text", "key"])
            for row in range(size):
                label, words = draw.choice(list(enumerate(MOODS.values())))
                text = f"the film, {draw.choice(words)} and {draw.choice(words)}"
                writer.writerow([label, text, f"{split}-{row}"])
    (tmp_path / "mood.yaml").write_text(
        f"""
description: One task of our own
extends: baseline
data.tasks: [mood]
model: {{encoder: "{tiny_encoder}", fcn_size: 8}}
batching.batch_size: 8
train: {{num_epochs: 2, precision: fp32}}
optim.lr: 1e-2
tasks:
  mood:
    kind: classification
    files: {{train: mood-train.csv, dev: mood-dev.csv}}
    delimiter: ","
    columns: {{id: key, sentences: [text], label: mood}}
    num_classes: 3
    metric: macro_f1
"""
    )
    (tmp_path / "mood-sweep.yaml").write_text(
        """
description: Learning rates for our own task
recipe: mood.yaml
space:
  optim.lr: {type: float, low: 1e-3, high: 3e-2, log: true}
search: {num_samples: 2, num_startup_trials: 2}
scheduler: {name: none}
"""
    )
    return tmp_path


def _ensweep(folder: Path, *arguments: str) -> str:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, arguments, env={"ENSWEEP_STORAGE": str(folder / "runs")})
    assert done.exit_code == 0, f"{arguments}\n{done.output}\n{done.exception!r}"
    return done.stdout


def test_the_whole_chain(folder: Path, one_ray: None) -> None:
    _ensweep(folder, "data", "check", ".", "--recipe", "mood.yaml")
    trained = json.loads(
        _ensweep(folder, "train", "mood.yaml", "--data-dir", ".", "--output", "one", "--json")
    )
    assert "dev/mood/macro_f1" in trained["metrics"]
    _ensweep(folder, "sweep", "mood-sweep.yaml", "--name", "moods", "--data-dir", ".")
    board = json.loads(_ensweep(folder, "leaderboard", "--json"))
    assert [row["outcome"] for row in board["trials"]] == ["finished"] * 4
    assert {row["trial"] for row in board["trials"][:2]} == {"majority", "frozen-linear"}
    chosen = json.loads(_ensweep(folder, "ensemble", "moods", "--json"))
    assert chosen["tasks"]["mood"]["metric"] == "macro_f1"
    _ensweep(folder, "export", "moods", "--output", "bundle")
    scores = json.loads(_ensweep(folder, "evaluate", "bundle", "--data-dir", ".", "--json"))
    assert 0 <= scores["scores"]["mood"] <= 1
    predicted = json.loads(
        _ensweep(folder, "predict", "bundle", "--text", "the film, bad and dull", "--json")
    )
    assert predicted["predictions"][0]["label"] in (0, 1, 2)
