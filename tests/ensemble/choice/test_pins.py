import json
from pathlib import Path

import pytest
from stores import Machines

from ensemble.candidates.pool import Candidate
from ensemble.choice.pins import pin_members, pinned_trials
from mlflow_setup.errors import IntegrityError


def member(storage: Path, sweep: str | None, trial: str, epoch: int) -> Candidate:
    uri = str(storage / str(sweep) / "trials" / trial / "weights")
    return Candidate(f"run{trial}", trial, sweep, epoch, uri, 0)


def test_each_sweep_has_a_pin_of_its_own_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(monkeypatch, tmp_path)  # an empty store
    for trial in ("a/trials/0001", "a/trials/0002", "a/trials/0009", "b/trials/0001"):
        (tmp_path / trial).mkdir(parents=True)
    members = [member(tmp_path, *m) for m in (("a", "0002", 7), ("b", "0001", 3), ("a", "0001", 1))]
    elsewhere = [member(tmp_path, "c", "0001", 1), member(tmp_path, None, "0005", 1)]
    elsewhere.append(Candidate("run1", "0001", "a", 1, "s3://bucket/a/trials/0001/weights", 0))
    added = Candidate("added:x.csv", "x.csv", None, 0, "", 0)
    assert pin_members([*members, *elsewhere, added]) == []
    assert machines.names() == []
    assert pinned_trials(tmp_path / "a") == {"0001", "0002"}
    assert pinned_trials(tmp_path / "b") == {"0001"}
    assert not (tmp_path / "c").exists()
    (pin,) = (tmp_path / "a" / "ensemble").iterdir()
    assert json.loads(pin.read_text())["members"] == [
        {"trial": "0001", "epoch": 1},
        {"trial": "0002", "epoch": 7},
    ]
    pin_members(members[::-1])
    assert len(list((tmp_path / "a" / "ensemble").iterdir())) == 1
    pin_members([member(tmp_path, "a", "0009", 1)])
    assert pinned_trials(tmp_path / "a") == {"0001", "0002", "0009"}


def test_a_pin_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a" / "trials" / "0001").mkdir(parents=True)
    (tmp_path / "a" / "ensemble").write_text("a file")
    (problem,) = pin_members([member(tmp_path, "a", "0001", 1)])
    assert problem.startswith(f"{tmp_path / 'a' / 'ensemble'}/")
    assert "cannot be written: " in problem


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"members": [1]}', '{"members": [{}]}'])
def test_an_invalid_pin_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ensemble" / "x.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(IntegrityError, match=r"x\.json: not a pin of an ensemble"):
        pinned_trials(tmp_path)
