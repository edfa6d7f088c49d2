"""Soft labels: averaged from runs or a bundle, computed once, found again, refused if foreign."""

from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ensemble.distillation.teachers import teach
from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import OVERALL, Identity, Outcome
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from trainable.batches.tokenization import load_tokenizer
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.recipe import resolve
from trainable.config.tasks import Kind
from trainable.data.dataset import Dataset, read_dataset
from trainable.distillation.soft_labels import read_soft_labels, soft_labels_dir, teacher_config
from trainable.distillation.teacher import average_outputs
from trainable.evaluation.evaluate import predict
from trainable.model.multitask import load_member
from trainable.runtime.stopping import AskedToStop
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train


@pytest.fixture
def tracking(tiny_runs: Path) -> Tracking:
    return resolve_tracking(tiny_runs)


def config_of(encoder: Path, data: Path, *overrides: str) -> Config:
    base = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "model.fcn_size=8", "optim.lr=1e-3"),
        *("train.num_epochs=1", "pretrain.enabled=false", "train.precision=fp32"),
        "distill.enabled=true",
    ]
    return resolve("b3", [*base, *overrides], {}).config


def labels_of(config: Config, shared: Path) -> tuple[Dataset, dict[str, torch.Tensor]]:
    dataset = read_dataset(config)
    return dataset, read_soft_labels(soft_labels_dir(config, dataset, shared), dataset)


def best_outputs(folder: Path, dataset: Dataset, name: str) -> np.ndarray:
    """By the plain way: the best overall epoch, sentence by sentence."""
    trial = TrialFolder(folder)
    best = max(trial.epochs(), key=lambda record: (record.metrics[OVERALL], -record.epoch))
    config = from_flat(trial.trial().config)
    model = load_member(trial.weights_dir(best.epoch), trial.encoder_dir, config)
    examples = dataset.train[name]
    return predict(model, name, examples.sentences, load_tokenizer(trial.encoder_dir))


def teachers_in(shared: Path) -> list[Path]:
    return sorted(path.parent for path in (shared / "teachers").glob("*/config.json"))


def test_two_runs_are_averaged_as_an_ensemble_is(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    runs = find_trials(tracking, "tiny")
    ids = ",".join(run.run_id for run in runs)
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{ids}")
    teach(config, tmp_path, tracking)
    dataset, soft = labels_of(config, tmp_path)
    folders = [tiny_runs / "tiny" / "trials" / run.trial for run in runs]
    for name in ("sentiment", "paraphrase", "similarity"):
        outputs = [best_outputs(folder, dataset, name) for folder in folders]
        if name == "sentiment":
            expected = np.mean([softmax(values, axis=1) for values in outputs], axis=0)
            actual = torch.softmax(soft[name], -1).numpy()
        else:
            expected, actual = np.mean(outputs, axis=0), soft[name].numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_bundle_teaches_what_it_predicts(
    tiny_encoder: Path, tiny_data: Path, tiny_bundle: Path, tracking: Tracking, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=bundle:{tiny_bundle}")
    teach(config, tmp_path, tracking)
    dataset, soft = labels_of(config, tmp_path)
    ensemble = Ensemble.load(tiny_bundle)
    for name, values in soft.items():
        expected = ensemble.outputs(name, dataset.train[name].sentences)
        actual = torch.softmax(values, -1).numpy() if name == "sentiment" else values.numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_teacher_is_stopped_between_stretches(
    kind: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tiny_bundle: Path,
    tracking: Tracking,
    tmp_path: Path,
) -> None:
    """And the training that waits for it: it has not begun, and goes on by the same call."""
    named = tiny_bundle if kind == "bundle" else find_trials(tracking, "tiny")[0].run_id
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher={kind}:{named}")
    asked = count(1)
    with pytest.raises(AskedToStop, match="its teacher gave its soft labels"):
        teach(config, tmp_path, tracking, stop=lambda: next(asked) == 2)
    assert not soft_labels_dir(config, read_dataset(config), tmp_path).exists()
    begin = partial(
        train,
        config,
        tmp_path / "t",
        identity=Identity("0001", None, "b3", {}),
        shared=tmp_path,
        teach=partial(teach, config, tmp_path, tracking, None),
    )
    stopped = begin(stop=lambda: True)
    assert (stopped.outcome, stopped.epoch) == (Outcome.STOPPED, 0)
    assert stopped.reason == "asked to stop while its teacher gave its soft labels"
    assert begin().outcome is Outcome.FINISHED


def test_soft_labels_are_computed_once(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}")
    teach(config, tmp_path, tracking)
    folder = soft_labels_dir(config, read_dataset(config), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    teach(config, tmp_path, tracking)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(before) == 3


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
    for stop_before, reason in ((5, "in epoch 1 before step 5"), (6, "gave its soft labels")):
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
    assert "soft labels are made again" in caplog.text


def test_a_teacher_needs_no_task_that_has_no_labels(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    tasks = "data.tasks=[sentiment, paraphrase, similarity, nli]"
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}", tasks)
    teach(config, tmp_path, tracking)
    assert set(labels_of(config, tmp_path)[1]) == {"sentiment", "paraphrase", "similarity"}


def test_what_cannot_teach_is_refused_by_name(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    unknown = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{'0' * 32}")
    with pytest.raises(ConfigError):
        teach(unknown, tmp_path, tracking)
    nowhere = config_of(tiny_encoder, tiny_data, f"distill.teacher=bundle:{tmp_path}/none")
    with pytest.raises(IntegrityError, match="none"):
        teach(nowhere, tmp_path, tracking)
    run = find_trials(tracking, "tiny")[0]
    with_nli = config_of(
        tiny_encoder,
        tiny_data,
        f"distill.teacher=run:{run.run_id}",
        "tasks.other={kind: classification, files: {train: ids-sst-train.csv, "
        "dev: ids-sst-dev.csv}, columns: {label: sentiment}, num_classes: 5}",
        "data.tasks=[sentiment, other]",
    )
    with pytest.raises(IntegrityError, match="no task other"):
        teach(with_nli, tmp_path, tracking)


def test_missing_or_foreign_soft_labels_stop_the_trial(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}")
    identity = Identity("0001", None, "b3", {})
    with pytest.raises(IntegrityError, match=r"sentiment\.parquet"):
        train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    teach(config, tmp_path, tracking)
    folder = soft_labels_dir(config, read_dataset(config), tmp_path)
    (folder / "similarity.parquet").write_bytes((folder / "paraphrase.parquet").read_bytes())
    with pytest.raises(IntegrityError, match="predictions of something else"):
        train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    teach(config, tmp_path, tracking)  # foreign ones are replaced
    assert set(labels_of(config, tmp_path)[1]) == {"sentiment", "paraphrase", "similarity"}


def test_a_run_whose_weights_are_gone(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}")
    folder = tiny_runs / "tiny" / "trials" / run.trial
    away = folder.rename(tmp_path / "away")
    try:
        with pytest.raises(NothingUsableError, match="not reached from here"):
            teach(config, tmp_path / "shared", tracking)
    finally:
        away.rename(folder)


def test_averages() -> None:
    one, two = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]]) + 3
    mean = average_outputs(Kind.CLASSIFICATION, [one, two])
    np.testing.assert_allclose(np.exp(mean), [[0.7, 0.3]], rtol=1e-5)
    assert average_outputs(Kind.SIMILARITY, [np.array([1.0]), np.array([2.0])]) == [1.5]
