import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from pools import TASKS, Store, assert_same, only_rejection

from ensemble.candidates.pool import Pool, load_pool
from ensemble.statistics.dev_splits import NUM_HALVES, folds
from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import Outcome, RunRecord, TrialRecord
from trainable.config.tasks import PAPER_TASKS
from trainable.evaluation.metrics import overall, task_metric


def labels_of(pool: Pool) -> list[str]:
    return [candidate.label for candidate in pool.candidates]


def best_epochs(store: Store, rows: dict[str, np.ndarray]) -> set[int]:
    """Of four usual epochs with seed 1, the best for each task and overall on some rows."""
    scores: dict[int, dict[str, float]] = {}
    for epoch in range(1, 5):
        scores[epoch] = {}
        for name in TASKS:
            outputs = store.outputs(name, 100 + epoch)[rows[name]]
            found = task_metric(PAPER_TASKS[name], outputs, store.labels[name][rows[name]])
            scores[epoch][name] = found[0]
    best = {max(scores, key=lambda epoch: scores[epoch][name]) for name in TASKS}
    return best | {max(scores, key=lambda epoch: overall(scores[epoch], PAPER_TASKS))}


def test_each_half_has_the_epochs_that_are_best_on_its_own_rows(store: Store) -> None:
    store.add_usual("a", 1, num_epochs=4)
    task = store.pool().tasks["sentiment"]
    found = []
    for half in range(NUM_HALVES):
        chosen = task.choosable[1 + half]
        epochs = {c.epoch for c, by in zip(task.candidates, chosen, strict=True) if by}
        assert epochs == best_epochs(store, {n: folds(store.ids(n))[1 + half].fit for n in TASKS})
        found.append(epochs)
    assert any(epochs != found[0] for epochs in found)


def test_every_best_epoch_is_a_candidate(store: Store) -> None:
    store.add_usual("a", 1, num_epochs=4, notes={"num_parameters": 22_000_000})
    store.add_usual("b", 2, num_epochs=1, outcome=Outcome.PRUNED)
    pool = store.pool()
    everything = {name: np.ones(len(store.ids(name)), np.bool_) for name in TASKS}
    best = best_epochs(store, everything)
    assert {c.epoch for c in pool.candidates if c.trial == "a"} == best
    assert len(best) > 1
    first, *_, last = pool.candidates
    assert (first.key, first.label, first.run_id) == ("s.b.0001", "b@1", "runb")
    assert (first.weights_uri, first.num_parameters) == ("/weights/b", 0)
    assert last.num_parameters == 22_000_000
    assert pool.rejected == ()
    for name, task in pool.tasks.items():
        assert task.task == PAPER_TASKS[name]
        exported = [c for c, by in zip(task.candidates, task.choosable[0], strict=True) if by]
        assert tuple(exported) == pool.candidates
        assert len(task.choosable) == 1 + NUM_HALVES
        assert task.data_fingerprint == f"{name}-data"
        assert list(task.ids) == sorted(store.ids(name))
        order = [store.ids(name).index(id_) for id_ in task.ids]
        np.testing.assert_array_equal(task.labels, store.labels[name][order])
        np.testing.assert_array_equal(task.outputs[0], store.outputs(name, 201)[order])


def test_a_run_without_weights_of_its_best_epochs_is_rejected(store: Store) -> None:
    right = (2 * store.labels["paraphrase"] - 1).astype(np.float32)
    store.add("a", {1: {"paraphrase": right}, 2: {"paraphrase": -right}}, kept=[2])
    assert only_rejection(store.pool()) == ("a", "the weights of its best epochs were not kept")


def test_predictions_after_the_last_kept_epoch_are_not_read(store: Store) -> None:
    store.add_usual("a", 1, num_epochs=3, kept=[1])
    store.path("a", 2).unlink()
    assert labels_of(store.pool()) == ["a@1"]


@pytest.mark.parametrize(
    ("outcome", "tags", "reason"),
    [
        (None, {}, "has not ended"),
        (Outcome.DIVERGED, {"outcome_reason": "the loss is nan"}, "diverged: the loss is nan"),
        (Outcome.FAILED, {"outcome_reason": "killed"}, "failed: killed"),
        (Outcome.STOPPED, {}, "stopped: no reason recorded"),
        (Outcome.PRUNED, {"kept_epochs": ""}, "pruned, but no weights were kept"),
        (Outcome.FINISHED, {"weights_uri": ""}, "finished, but the location of its weights is n"),
        (Outcome.FINISHED, {"kept_epochs": "1,x"}, "the tag kept_epochs is '1,x', not a list of"),
        (Outcome.FINISHED, {"kept_epochs": "0"}, "the tag kept_epochs is '0', not a list of epoc"),
        (Outcome.FINISHED, {"kept_epochs": "9"}, "run runbad has no artifact predictions/0"),
    ],
)
def test_unusable_runs_are_rejected_with_a_reason(
    store: Store, outcome: Outcome | None, tags: dict[str, str], reason: str
) -> None:
    store.add_usual("good", 1)
    store.add_usual("bad", 2, outcome=outcome, tags=tags)
    pool = store.pool()
    assert only_rejection(pool)[0] == "bad"
    assert only_rejection(pool)[1].startswith(reason)
    assert {candidate.trial for candidate in pool.candidates} == {"good"}


def test_the_order_and_repetition_of_runs_do_not_matter(store: Store) -> None:
    for seed, trial in enumerate("abcd"):
        store.add_usual(trial, seed, outcome=Outcome.FAILED if trial == "c" else Outcome.FINISHED)
    expected = store.pool()
    assert_same(load_pool(store.runs[::-1], store.download), expected)
    assert_same(load_pool(store.runs * 2, store.download), expected)


def test_runs_on_other_data_than_most_are_rejected(store: Store) -> None:
    for seed, trial in enumerate("abc"):
        store.add_usual(trial, seed, num_epochs=1)
    for trial in "bc":
        outputs = store.outputs("similarity", 1)
        new = store.predictions("similarity", outputs, data_fingerprint="new")
        store.replace(trial, 1, "similarity", new)
    pool = store.pool()
    assert only_rejection(pool) == ("a", "similarity: data similarity-data, most runs: new")
    assert labels_of(pool) == ["b@1", "c@1"]


def test_runs_are_candidates_for_the_tasks_they_were_trained_on(store: Store) -> None:
    store.add_usual("a", 1, num_epochs=1)
    store.add("b", {1: {"sentiment": store.outputs("sentiment", 2)}})
    pool = store.pool()
    assert pool.rejected == ()
    served = {name: [c.trial for c in task.candidates] for name, task in pool.tasks.items()}
    assert served == {"sentiment": ["a", "b"], "paraphrase": ["a"], "similarity": ["a"]}


def test_runs_with_another_metric_than_most_are_rejected(store: Store) -> None:
    for trial, metric in (("a", "accuracy"), ("b", "accuracy"), ("c", "macro_f1")):
        mood = {"kind": "classification", "files": {"train": "t", "dev": "d"}, "num_classes": 5}
        config = {"tasks": {"mood": {**mood, "metric": metric}}, "data.tasks": ["mood"]}
        store.add(trial, {}, kept=[1], config=config)
        mood_outputs = store.predictions(
            "sentiment", store.outputs("sentiment", 1), task_name="mood"
        )
        mood_outputs.write(store.path(trial, 1))
    assert only_rejection(store.pool()) == (
        "c",
        "mood: metric macro_f1, most runs: accuracy",
    )


def test_a_dev_set_too_small_to_split_is_rejected(store: Store) -> None:
    store.add("a", {1: {"paraphrase": store.outputs("paraphrase", 1)}})
    row = store.predictions("paraphrase", np.ones(1, np.float32), ids=("p-0",), labels=np.ones(1))
    row.write(store.path("a", 1))
    assert only_rejection(store.pool())[1].startswith("paraphrase: 1 dev rows, too few")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "no trial record"),
        ("[]", "no trial record: not a TrialRecord"),
        (None, "run runbad has no artifact config.json"),
        ("other", "the record of trial 'good' of sweep 's', not of 'bad' of 's'"),
        ("lr", "optim.lr: input should be less than 1"),
    ],
)
def test_invalid_configurations_and_those_of_other_runs_are_rejected(
    store: Store, content: str | None, reason: str
) -> None:
    store.add_usual("good", 1)
    store.add_usual("bad", 2)
    path = store.root / "runbad" / "config.json"
    if content is None:
        path.unlink()
    elif content == "other":
        path.write_text((store.root / "rungood" / "config.json").read_text())
    elif content == "lr":
        record = TrialRecord.from_json(path.read_text())
        config = {**record.config, "optim.lr": 7}
        path.write_text(dataclasses.replace(record, config=config).to_json())
    else:
        path.write_text(content)
    trial, found = only_rejection(store.pool())
    assert trial == "bad"
    assert reason in found


def test_a_run_that_cannot_be_downloaded_is_rejected(store: Store) -> None:
    def download(run_id: str, artifact: str) -> Path:
        raise ConfigError("the server is unreachable", fix="start it")

    runs: list[RunRecord] = [store.add_usual("a", 1)]
    assert only_rejection(load_pool(runs, download)) == ("a", "the server is unreachable")


def test_runs_are_read_concurrently(store: Store) -> None:
    """Downloads from a server take time."""
    together = threading.Barrier(2)
    first: set[str] = set()

    def download(run_id: str, artifact: str) -> Path:
        if run_id not in first:
            first.add(run_id)
            together.wait(timeout=20)
        return store.download(run_id, artifact)

    for trial, seed in (("a", 1), ("b", 2)):
        store.add_usual(trial, seed, num_epochs=1)
    candidates = load_pool(store.runs, download).candidates
    assert {candidate.run_id for candidate in candidates} == {run.run_id for run in store.runs}


def test_epochs_before_weights_are_averaged_are_not_candidates(store: Store) -> None:
    """However good they are: training has not kept their weights."""
    epochs = {
        epoch: {name: store.outputs(name, epoch, noise) for name in TASKS}
        for epoch, noise in ((1, 0.5), (2, 0.4), (3, 3.0), (4, 2.5))
    }
    config = {"train.stages": ["finetune", "swa"], "train.num_epochs": 2, "swa.num_epochs": 2}
    store.add("a", epochs, config=config, kept=[3, 4])
    pool = store.pool()
    assert pool.rejected == ()
    assert {c.epoch for c in pool.candidates} <= {3, 4}
    store.add("b", {epoch: epochs[epoch] for epoch in (1, 2)}, config=config)  # not averaged yet
    assert {c.epoch for c in store.pool().candidates if c.trial == "b"} <= {1, 2}
