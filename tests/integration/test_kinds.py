"""Each kind of task beyond the paper's, and labels by name: trained and tracked twice, ensembled,
exported, evaluated, predicted, served; in this process, with a tiny encoder.
"""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from little_effort import LITTLE

from ensemble.choice.request import Request, choose_ensemble
from ensemble.export.write import export
from ensemble.inference.ensemble import Ensemble
from ensemble.inference.label_files import submission
from ensemble.serving.interface import interface
from ensemble.serving.service import Service
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import Identity
from mlflow_setup.tracking.store import resolve_tracking
from trainable.config.recipe import resolve
from trainable.config.tasks import Task
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

MOODS = ["glad", "calm", "angry"]
KINDS = {
    "classification": {"labels": MOODS},
    "pair_classification": {"labels": ["apart", "alike", "same"]},
    "paraphrase": {"labels": ["apart", "same"]},
    "multilabel": {"labels": MOODS},
    "regression": {"min_score": -1, "max_score": 1},
}
WORDS = {"glad": "bright", "calm": "slow", "angry": "bad"}


def _row(kind: str, draw: random.Random) -> tuple[list[str], str]:
    """Sentences, and a label that their words decide."""
    moods = draw.sample(MOODS, draw.randint(0, 3))
    text = " ".join(["the film", *(WORDS[mood] for mood in sorted(moods))])
    if kind == "classification":
        mood = draw.choice(MOODS)
        return [f"the film is {WORDS[mood]} and {draw.choice(['fast', 'dull'])}"], mood
    if kind == "multilabel":
        return [text], "|".join(moods)
    if kind == "regression":
        return [text], str(round(("glad" in moods) - ("angry" in moods) * 0.8, 2))
    alike = draw.choice(KINDS[kind]["labels"])  # type: ignore[index]
    other = {"same": text, "alike": f"{text} well", "apart": "how do i cook bread"}[str(alike)]
    return [text, other], str(alike)


@pytest.fixture(params=KINDS)
def tracked(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_encoder: Path
) -> tuple[Path, Task]:
    """Data of a kind, and the tracked sweep `mine` of a trained and a solved model."""
    draw, kind = random.Random(0), str(request.param)
    for split, size in {"train": 48, "dev": 40, "test": 4}.items():
        rows = [_row(kind, draw) for _ in range(size)]
        header = ["id", *(f"text{n}" for n in range(len(rows[0][0]))), "mood"]
        lines = ["\t".join([f"{split}-{n}", *texts, mood]) for n, (texts, mood) in enumerate(rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["\t".join(header), *lines]) + "\n")
    declared = {
        "kind": kind,
        "files": {split: f"{split}.csv" for split in ("train", "dev", "test")},
        "columns": {"sentences": header[1:-1], "label": "mood"},
        **KINDS[kind],
    }
    settings = [
        f"data.dir={tmp_path}",
        "data.tasks=[mood]",
        f"tasks={json.dumps({'mood': declared})}",
        f"model.encoder={tiny_encoder}",
        "model.pooling=mean",
        "model.fcn_size=8",
        "train.num_epochs=2",
        "optim.lr=1e-2",
        "train.precision=fp32",
    ]
    mirror = Mirror(resolve_tracking(tmp_path / "runs"), "mine")
    mirror.start({}, {})
    recipes = {
        "frozen-linear": [],
        "baseline": ["model.shared_fcn=true", "loss.smart.enabled=true"],
    }
    for recipe, own in recipes.items():
        resolved = resolve(recipe, [*settings, *own], {})
        folder = tmp_path / "runs" / "mine" / "trials" / recipe
        ended = train(resolved.config, folder, identity=Identity(recipe, "mine", recipe, {}))
        assert ended.outcome == "finished", ended.reason
        mirror.project(TrialFolder(folder).snapshot())
    mirror.finish("FINISHED")
    return tmp_path, resolved.config.task_records()["mood"]


def test_a_kind_goes_the_whole_way(
    tracked: tuple[Path, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, task = tracked
    little = partial(choose_ensemble, effort=LITTLE)
    monkeypatch.setattr("ensemble.export.write.choose_ensemble", little)
    tracking = resolve_tracking(folder / "runs")
    records = TrialFolder(folder / "runs" / "mine" / "trials" / "baseline").epochs()
    assert all(f"dev/mood/{task.metric}" in record.metrics for record in records)
    for rule in ("stacking", "greedy_of_best"):  # a linear model, and an average
        bundle = folder / rule
        export(tracking, Request(("mine",), rule=rule), folder / "runs" / ".cache", bundle)
        ensemble = Ensemble.load(bundle)
        score = ensemble.evaluate(folder).scores["mood"]
        assert score > 0.45, (rule, score)  # the words decide
    if task.labels:
        config = json.loads((bundle / "config.json").read_bytes())
        assert list(config["id2label"].values()) == list(task.labels)
        assert f"| mood | {', '.join(task.labels)} |" in (bundle / "README.md").read_text()
    texts = [("the film bright", "the film bright")] if task.kind.is_pair else ["the film bright"]
    frame = ensemble.predict(texts)
    label = frame["label"][0]
    if task.labels:
        parts = label.split("|") if task.kind == "multilabel" else [label]
        assert set(parts) <= {*task.labels, ""}
    else:
        assert task.min_score <= label <= task.max_score
    if task.kind.output.has_columns:
        shares = frame[[f"probability_{name}" for name in task.labels]].to_numpy()[0]
        assert ((shares > 0) & (shares < 1)).all()
        assert bool(np.isclose(shares.sum(), 1)) == (task.kind != "multilabel")
    columns = dict(zip(task.columns.sentences, np.atleast_1d(texts[0]).tolist(), strict=True))
    request = json.dumps({"dataframe_records": [columns]}).encode()
    served = json.loads(Service(ensemble).answer(request))["predictions"][0]
    assert served == json.loads(frame.to_json(orient="records"))[0] | served
    assert served["label"] == label
    assert set(interface(ensemble.tasks).outputs) == set(frame.columns)
    lines = submission(ensemble, "mood", folder / "test.csv").splitlines()
    assert lines[0] == "id \t Predicted_mood "
    assert lines[1].startswith("test-0 , ")
    assert len(lines) == 5
