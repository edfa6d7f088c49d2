"""Self-distillation: teachers are trained once, reused, stopped and resumed."""

from pathlib import Path

import numpy as np
import pytest
from distilled import best_outputs, config_of, labels_of, teachers_in
from stops import stop_at
from tiny_trials import run

from mlflow_setup.schema import Outcome
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind
from trainable.data.dataset import read_dataset
from trainable.distillation.soft_labels import soft_labels_dir, teacher_config
from trainable.distillation.teacher import average_outputs
from trainable.storage.trial_folder import TrialFolder


def test_a_student_learns_from_its_self_trained_teacher(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The teacher's results are those of a trial with the same configuration, but no teacher."""
    config = config_of(tiny_encoder, tiny_data)
    shared = tmp_path / "shared"
    assert run(config, tmp_path / "student", shared).outcome is Outcome.FINISHED
    plain = teacher_config(config, 0)
    assert not plain.distill.enabled
    run(plain, tmp_path / "plain", shared)
    (teacher,) = teachers_in(shared)
    metrics = [TrialFolder(path).epochs()[0].metrics for path in (teacher, tmp_path / "plain")]
    assert metrics[0] == metrics[1]
    dataset, soft = labels_of(config, shared)
    np.testing.assert_allclose(
        soft["similarity"].numpy(), best_outputs(teacher, dataset, "similarity"), atol=1e-5
    )


def test_students_share_teachers_of_the_same_seed(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Teachers of seed 0, then of 0 and 1, then of 1."""
    shared = tmp_path / "shared"
    students = ("seed=0", "distill.num_teachers=2", "seed=1")
    counts = []
    for number, override in enumerate(students):
        folder = tmp_path / f"{number}" / "student"  # the only trial in its sweep
        config = config_of(tiny_encoder, tiny_data, override)
        assert run(config, folder, shared).outcome is Outcome.FINISHED
        counts.append(len(teachers_in(shared)))
    assert counts == [1, 2, 2]
    assert len(list((shared / "soft_labels").glob("*/sentiment.parquet"))) == 3


def test_a_finished_trial_of_the_sweep_serves_as_the_teacher(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    config = config_of(tiny_encoder, tiny_data)
    plain = teacher_config(config, 0)
    others = {"other": {"optim.lr": 2e-3}, "unfinished": {}, "b3": {}}
    for name, changes in others.items():
        run(from_flat({**plain.flat(), **changes}), tmp_path / "s" / name, shared)
    TrialFolder(tmp_path / "s" / "unfinished").outcome_path.unlink()
    (tmp_path / "s" / "damaged").mkdir()
    (tmp_path / "s" / "damaged" / "outcome.json").write_text("{")
    run(config, tmp_path / "s" / "b4", shared)
    assert teachers_in(shared) == []
    dataset, soft = labels_of(config, shared)
    np.testing.assert_allclose(
        soft["similarity"].numpy(),
        best_outputs(tmp_path / "s" / "b3", dataset, "similarity"),
        atol=1e-5,
    )


def test_a_student_that_was_stopped_resumes_its_teacher(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, "distill.num_teachers=2")
    folders = [tmp_path / name / "student" for name in ("whole", "stopped")]
    calls: list[None] = []
    run(config, folders[0], tmp_path / "one", stop=lambda: calls.append(None))
    num_steps = 9  # 48 examples of each of three tasks, in batches of 16
    assert len(calls) == 3 * num_steps + 2 * 3  # two teachers, the student; labels of three tasks
    for number, reason in ((5, "in epoch 1 before step 5"), (6, "computed soft labels")):
        ended = run(config, folders[1], tmp_path / "two", stop=stop_at(number))
        assert (ended.outcome, ended.epoch) == (Outcome.STOPPED, 0)
        assert "its teacher" in ended.reason
        assert reason in ended.reason
    run(config, folders[1], tmp_path / "two")
    one, two = (TrialFolder(folder).epochs() for folder in folders)
    assert [record.metrics for record in one] == [record.metrics for record in two]


def test_teachers_share_the_students_pretrained_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """With a random part of the data: a teacher's seed must not change the text."""
    settings = ["pretrain.enabled=true", "pretrain.max_steps=2", "data.train_fraction=0.5"]
    config = config_of(tiny_encoder, tiny_data, *settings, "distill.num_teachers=2")
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED
    assert len(teachers_in(tmp_path)) == 2
    assert len(list((tmp_path / "encoders").glob("*/config.json"))) == 1


def test_damaged_soft_labels_are_computed_again(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    run(config, tmp_path / "one" / "t", tmp_path)
    (path,) = (tmp_path / "soft_labels").glob("*/similarity.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    run(config, tmp_path / "two" / "t", tmp_path)
    assert path.read_bytes() == whole
    assert "soft labels are computed again" in caplog.text


def test_teachers_outputs_are_averaged() -> None:
    one, two = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]]) + 3
    mean = average_outputs(Kind.CLASSIFICATION, [one, two])
    np.testing.assert_allclose(np.exp(mean), [[0.7, 0.3]], rtol=1e-5)
    assert average_outputs(Kind.SIMILARITY, [np.array([1.0]), np.array([2.0])]) == [1.5]


def test_soft_labels_are_stored_by_teacher_and_data(tiny_encoder: Path, tiny_data: Path) -> None:
    def folder(*overrides: str) -> Path:
        config = config_of(tiny_encoder, tiny_data, *overrides)
        return soft_labels_dir(config, read_dataset(config), Path("shared"))

    ours = folder()
    assert ours == folder("distill.weight=0.7") == folder("distill.place=head")
    others = [
        folder("distill.teacher=run:a"),
        folder("distill.teacher=run:a,b"),
        folder("distill.num_teachers=2"),
        folder("optim.lr=2e-3"),
        folder("data.train_fraction=0.5"),
    ]
    assert len({ours, *others}) == 6
