"""Self-distillation: teachers are trained once, found again, stopped and gone on with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from distilled import best_outputs, config_of, labels_of, teachers_in

from mlflow_setup.schema import Identity, Outcome
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind
from trainable.data.dataset import read_dataset
from trainable.distillation.soft_labels import soft_labels_dir, teacher_config
from trainable.distillation.teacher import average_outputs
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train


def test_a_student_learns_from_its_self_trained_teacher(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The teacher is the same configuration without distillation: its numbers are that trial's."""
    config = config_of(tiny_encoder, tiny_data)
    torch.set_num_threads(1)
    identity = Identity("0001", None, "b4", {})
    shared = tmp_path / "shared"
    ended = train(config, tmp_path / "student", identity=identity, shared=shared)
    assert ended.outcome is Outcome.FINISHED
    plain = teacher_config(config, 0)
    assert not plain.distill.enabled
    train(plain, tmp_path / "plain", identity=identity, shared=shared)
    (teacher,) = teachers_in(shared)
    metrics = [TrialFolder(path).epochs()[0].metrics for path in (teacher, tmp_path / "plain")]
    assert metrics[0] == metrics[1]
    dataset, soft = labels_of(config, shared)
    np.testing.assert_allclose(
        soft["similarity"].numpy(), best_outputs(teacher, dataset, "similarity"), atol=1e-5
    )


def test_each_teacher_is_trained_once_whoever_its_students_are(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Of seed 0, then 0 and 1, then 1 alone."""
    shared, identity = tmp_path / "shared", Identity("0001", None, "b4", {})
    students = (["seed=0"], ["distill.num_teachers=2"], ["seed=1"])
    counts = []
    for number, overrides in enumerate(students):
        folder = tmp_path / f"{number}" / "student"  # nothing beside it
        config = config_of(tiny_encoder, tiny_data, *overrides)
        assert train(config, folder, identity=identity, shared=shared).outcome is Outcome.FINISHED
        counts.append(len(teachers_in(shared)))
    assert counts == [1, 2, 2]
    assert len(list((shared / "soft_labels").glob("*/sentiment.parquet"))) == 3


def test_a_finished_trial_beside_the_student_is_its_teacher(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shared, identity = tmp_path / "shared", Identity("0001", None, "b3", {})
    config = config_of(tiny_encoder, tiny_data)
    plain = teacher_config(config, 0)
    others = {"other": {"optim.lr": 2e-3}, "unfinished": {}, "b3": {}}
    for name, changes in others.items():
        given = from_flat({**plain.flat(), **changes})
        train(given, tmp_path / "s" / name, identity=identity, shared=shared)
    TrialFolder(tmp_path / "s" / "unfinished").outcome_path.unlink()
    (tmp_path / "s" / "damaged").mkdir()
    (tmp_path / "s" / "damaged" / "outcome.json").write_text("{")
    train(config, tmp_path / "s" / "b4", identity=identity, shared=shared)
    assert teachers_in(shared) == []
    dataset, soft = labels_of(config, shared)
    np.testing.assert_allclose(
        soft["similarity"].numpy(),
        best_outputs(tmp_path / "s" / "b3", dataset, "similarity"),
        atol=1e-5,
    )


def test_a_student_stopped_while_its_teacher_is_trained_goes_on_with_it(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, "distill.num_teachers=2")
    torch.set_num_threads(1)
    folders = [tmp_path / name / "student" for name in ("whole", "stopped")]
    identity = Identity("0001", None, "b4", {})
    asked = iter(range(1, 10_000))
    num_asked = 0

    def count() -> bool:
        nonlocal num_asked
        num_asked = next(asked)
        return False

    train(config, folders[0], identity=identity, stop=count, shared=tmp_path / "one")
    num_steps = 9  # 48 examples of each of three tasks by 16
    assert num_asked == 3 * num_steps + 2 * 3  # two teachers, the student; labels of three tasks
    for stop_before, reason in ((5, "in epoch 1 before step 5"), (6, "computed soft labels")):
        asked = iter(range(1, 100))
        ended = train(
            config,
            folders[1],
            identity=identity,
            stop=lambda asked=asked, at=stop_before: next(asked) == at,
            shared=tmp_path / "two",
        )
        assert (ended.outcome, ended.epoch) == (Outcome.STOPPED, 0)
        assert "its teacher" in ended.reason
        assert reason in ended.reason
    train(config, folders[1], identity=identity, shared=tmp_path / "two")
    one, two = (TrialFolder(folder).epochs() for folder in folders)
    assert [record.metrics for record in one] == [record.metrics for record in two]


def test_teachers_share_the_students_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A part of the data: another seed would draw, and pre-train on, other text."""
    settings = ["pretrain.enabled=true", "pretrain.max_steps=2", "data.train_fraction=0.5"]
    config = config_of(tiny_encoder, tiny_data, *settings, "distill.num_teachers=2")
    ended = train(
        config, tmp_path / "t", identity=Identity("0001", None, "b4", {}), shared=tmp_path
    )
    assert ended.outcome is Outcome.FINISHED
    assert len(teachers_in(tmp_path)) == 2
    assert len(list((tmp_path / "encoders").glob("*/config.json"))) == 1


def test_damaged_soft_labels_are_made_again(
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    identity = Identity("0001", None, "b4", {})
    train(config, tmp_path / "one" / "t", identity=identity, shared=tmp_path)
    (path,) = (tmp_path / "soft_labels").glob("*/similarity.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    train(config, tmp_path / "two" / "t", identity=identity, shared=tmp_path)
    assert path.read_bytes() == whole
    assert "soft labels are computed again" in caplog.text


def test_averages() -> None:
    one, two = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]]) + 3
    mean = average_outputs(Kind.CLASSIFICATION, [one, two])
    np.testing.assert_allclose(np.exp(mean), [[0.7, 0.3]], rtol=1e-5)
    assert average_outputs(Kind.SIMILARITY, [np.array([1.0]), np.array([2.0])]) == [1.5]


def test_the_place_follows_teacher_and_data(tiny_encoder: Path, tiny_data: Path) -> None:
    def place(*overrides: str) -> Path:
        config = config_of(tiny_encoder, tiny_data, *overrides)
        return soft_labels_dir(config, read_dataset(config), Path("shared"))

    ours = place()
    assert ours == place("distill.weight=0.7") == place("distill.place=head")
    others = [
        place("distill.teacher=run:a"),
        place("distill.teacher=run:a,b"),
        place("distill.num_teachers=2"),
        place("optim.lr=2e-3"),
        place("data.train_fraction=0.5"),
    ]
    assert len({ours, *others}) == 6
