"""`ensweep compress`: distils an ensemble into one model, and shows the change in scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import URI, Machines
from typer.testing import CliRunner

from ensemble.bundle.format import ENSEMBLE, FACTS, Bundle
from ensemble.distillation.compress import student_of
from ensemble.inference.ensemble import Ensemble
from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest
from trainable.data.readers import read_split
from trainable.evaluation.metrics import task_metric

TASKS = ["sentiment", "paraphrase", "similarity"]


def invoke(*words: str | Path) -> Any:
    result = CliRunner().invoke(app, ["compress", *map(str, words)])
    if isinstance(result.exception, EnsweepError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_an_ensemble_is_distilled_into_one_model(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a storage URI, a stopped student is resumed on another machine."""
    machines = Machines(monkeypatch, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    output, by_uri = tmp_path / "small", f"file://{tiny_data}"
    words = [tiny_bundle, "--data-dir", by_uri, "--storage", URI]
    done = invoke(*words, "--output", output, "--json", "train.num_epochs=1")
    content = json.loads(done.stdout)
    assert Path(content["folder"]) == output
    teacher, student = Ensemble.load(tiny_bundle), Ensemble.load(output)
    (name,) = student.bundle.contents.members
    config = student.bundle.config(name)
    best = content["configuration"].removeprefix("member ")
    expected = teacher.bundle.config(best).model
    assert config.model.model_copy(update={"encoder": expected.encoder}) == expected
    assert config.model.encoder.startswith("./")  # the URI, in place of a local folder
    assert config.distill.teacher == f"bundle:./{tiny_bundle.name}"
    assert config.train.num_epochs == 1
    assert list(content["tasks"]) == TASKS
    for task, found in content["tasks"].items():
        examples, _ = read_split(task, teacher.tasks[task], "dev", tiny_data)
        for which, ensemble in (("ensemble", teacher), ("student", student)):
            outputs = ensemble.outputs(task, examples.sentences)
            score, _ = task_metric(teacher.tasks[task], outputs, np.asarray(examples.labels))
            assert found[which] == pytest.approx(score, abs=1e-5)
        assert found["low"] <= found["student"] - found["ensemble"] <= found["high"]
        assert found["num_rows"] == 32
    assert content["student"]["num_models"] == 1 < content["ensemble"]["num_models"]
    assert 0 < content["student"]["megabytes"] < content["ensemble"]["megabytes"]
    assert min(content[who]["seconds_per_1000"] for who in ("student", "ensemble")) > 0
    assert student.bundle.contents.distilled["sentiment"].student == pytest.approx(
        content["tasks"]["sentiment"]["student"]
    )
    card = (output / "README.md").read_text()
    for task, found in content["tasks"].items():
        cells = f"{found['ensemble']:.4f} | **{found['student']:.4f}** | "
        change = f"{found['student'] - found['ensemble']:+.4f} [{found['low']:+.4f}, "
        assert f"| {task} | {teacher.tasks[task].metric} | 32 | {cells}{change}" in card
    shutil.rmtree(output)  # as after a stop: the trained student is found again
    machines.next_one(monkeypatch)
    again = invoke(*words, "--output", output, "train.num_epochs=1")
    assert "epoch 1" not in again.stderr
    assert "student minus ensemble" in again.stdout
    with pytest.raises(ConfigError, match="is there already"):
        invoke(*words, "--output", output, "train.num_epochs=1")


def test_the_student_is_configured_like_the_best_member_or_a_recipe(
    tiny_bundle: Path, tiny_data: Path
) -> None:
    contents = Bundle.load(tiny_bundle).contents
    weights = dict.fromkeys(contents.members, 0.0)
    for entry in contents.tasks.values():
        for share in entry.members:
            weights[share.member] += share.weight
    best = max(sorted(weights), key=weights.__getitem__)
    found = student_of(tiny_bundle, tiny_data, None, ["optim.lr=3e-4"])
    assert found.recipe == f"member {best}"
    assert (found.config.optim.lr, found.origin["optim.lr"]) == (3e-4, "command line")
    assert found.origin["model.pooling"] == f"member {best}"
    of_recipe = student_of(tiny_bundle, tiny_data, "b4")
    assert of_recipe.recipe == "b4"
    assert of_recipe.config.distill.teacher == f"bundle:{tiny_bundle}"
    with pytest.raises(ConfigError, match=r"distill\.teacher is set by compress itself"):
        student_of(tiny_bundle, tiny_data, "b4", ["distill.teacher=self"])


def test_a_student_is_never_a_baseline(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Baselines do not learn from soft labels, even if one has the largest weight."""
    best = student_of(tiny_bundle, tiny_data).recipe.removeprefix("member ")
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    content = json.loads((folder / ENSEMBLE).read_text())
    solved = {"train.stages": ["fit"], "model.heads": "linear"}
    content["members"][best]["config"] |= solved
    _rewrite(folder, content)
    found = student_of(folder, tiny_data)
    assert found.recipe != f"member {best}"
    assert "fit" not in found.config.train.stages
    with pytest.raises(ConfigError, match="the stage fit uses labels only"):
        student_of(folder, tiny_data, "frozen-linear")


def test_an_ensemble_without_a_member_for_all_tasks_is_refused(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    content = json.loads((folder / ENSEMBLE).read_text())
    names = sorted(content["members"])
    for name, task in zip(names, ("sentiment", "similarity"), strict=True):
        content["members"][name]["config"]["data.tasks"] = [task]
        content["tasks"][task]["members"] = [{"member": name, "weight": 1.0}]
    del content["tasks"]["paraphrase"]
    _rewrite(folder, content)
    with pytest.raises(ConfigError, match="no member was trained on all of sentiment, similarity"):
        student_of(folder, tiny_data)


def _rewrite(folder: Path, content: dict[str, Any]) -> None:
    (folder / ENSEMBLE).write_text(json.dumps(content))
    (folder / MANIFEST).unlink()
    write_manifest(folder, FACTS)
