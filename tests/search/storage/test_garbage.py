"""What `ensweep gc` deletes, and what it keeps."""

import random
from pathlib import Path

import pytest
from past_sweep import Past

from mlflow_setup.schema import EpochRecord, Outcome, update_best
from search.storage.garbage import PrunedWeights, find_garbage, near_top
from trainable.model.weight_files import ENCODER_FILE
from trainable.storage.layout import ENCODERS, SHARED


def files_of(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}


def test_only_files_that_nothing_needs_are_garbage(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.9,), Outcome.FINISHED)
    past.trial("0002", (0.8,), Outcome.PRUNED, ("stop",))
    past.trial("0003", (0.1,), Outcome.PRUNED, ("stop",))
    past.trial("0004", (0.2,), Outcome.DIVERGED)
    past.trial("0005", (0.2,), Outcome.FAILED)
    past.trial("0006", (0.2,), Outcome.STOPPED)
    past.trial("0007", (0.2,), None)
    past.trial("0008", (0.1,), Outcome.PRUNED, ("stop",))
    note = past.folder.path / "ensemble" / "x.json"  # 0008 is a member of a chosen ensemble
    note.parent.mkdir()
    note.write_text('{"members": [{"trial": "0008", "epoch": 1}]}')
    for trial in past.folder.trial_folders():
        for name in ("weights/0001/model", "checkpoint/00000001/state", "predictions/x/0001"):
            path = trial.path / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * 10)
    damaged = past.folder.trial("0007").path / "checkpoint" / "quarantine" / "00000000-0" / "state"
    leftover = past.folder.trial("0006").path / "weights" / ".tmp-abc"
    for path in (damaged, leftover):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"y" * 5)
    before = files_of(past.folder.path)
    garbage = find_garbage(past.folder, keep_pruned_top=2)
    assert files_of(past.folder.path) == before  # finding deletes nothing
    assert sum(item.num_bytes for item in garbage) == 10 * 8 + 5 * 2
    for item in garbage:
        item.remove()
    deleted = before - files_of(past.folder.path)
    assert deleted == {
        "trials/0001-b2/checkpoint/00000001/state",
        "trials/0002/checkpoint/00000001/state",
        "trials/0003/checkpoint/00000001/state",
        "trials/0003/weights/0001/model",
        "trials/0004/checkpoint/00000001/state",
        "trials/0004/weights/0001/model",
        "trials/0005/weights/0001/model",
        "trials/0006/weights/.tmp-abc",
        "trials/0008/checkpoint/00000001/state",
        "trials/0007/checkpoint/quarantine/00000000-0/state",
    }
    assert find_garbage(past.folder, keep_pruned_top=2) == []


def test_a_driver_deletes_the_same_weights_as_gc(tmp_path: Path) -> None:
    """It keeps the best scores of all trials in memory, and does not read them again."""
    past = Past(tmp_path)
    for count in (0, 1, 3, 40):
        draw, marked, best = random.Random(count), list[str](), dict[str, dict[str, float]]()
        weights = PrunedWeights(past.folder, count, marked.append)
        there: set[str] = set()
        for epoch in range(150):
            trial = f"{draw.randrange(30):04d}"
            scores = {f"dev/{task}/accuracy": draw.randrange(20) / 20 for task in "ab"}
            record = EpochRecord(epoch, scores, {}, 1.0, 0.0)
            update_best(best.setdefault(trial, {}), record)
            weights.compare(trial, record)
            if draw.random() < 0.2:
                weights.there.add(trial)
                there.add(trial)
                weights.drop()
                there &= near_top(best, count)
                assert weights.there == there
        assert bool(marked) == (count < 40)


def test_a_shared_encoder_that_no_trial_uses_is_garbage(tmp_path: Path) -> None:
    """The encoder of a trial whose weights are deleted now is garbage the next time."""
    past = Past(tmp_path)
    past.trial("0001", (0.9,), Outcome.FINISHED)
    past.trial("0002", (0.2,), Outcome.DIVERGED)
    shared = past.folder.path.parent / SHARED / ENCODERS
    shared.mkdir(parents=True)
    for name in ("0001", "0002", "none"):
        (shared / name).write_bytes(b"x" * 100)
    for name in ("0001", "0002"):
        weights = past.folder.trial(name).path / "weights" / "0001"
        weights.mkdir(parents=True)
        (weights / ENCODER_FILE).hardlink_to(shared / name)
    for deleted in ({"none": 100, "weights": 50}, {"0002": 100}, {}):
        garbage = find_garbage(past.folder, keep_pruned_top=0)
        assert {item.path.name: item.num_bytes for item in garbage} == deleted
        for item in garbage:
            item.remove()
    assert [path.name for path in shared.iterdir()] == ["0001"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, set()), (1, {"a", "b"}), (2, {"a", "b", "c", "d"}), (9, {"a", "b", "c", "d"})],
)
def test_near_top(count: int, expected: set[str]) -> None:
    best = {
        "a": {"x": 0.9, "y": 0.1},
        "b": {"x": 0.1, "y": 0.9},
        "c": {"x": 0.5, "y": 0.2},
        "d": {"x": 0.2, "y": 0.2},
    }
    assert near_top(best, count) == expected
