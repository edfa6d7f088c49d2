from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.runs.ensemble_runs import Chosen, log_choice, log_ensemble
from mlflow_setup.tracking.store import Tracking


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "ensemble.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Card")
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "model.safetensors").write_text("large")
    return tmp_path


def test_an_ensemble_is_logged_as_a_run(tracking: Tracking, bundle: Path) -> None:
    run_id = log_ensemble(
        tracking, "best", bundle, {"dev/overall": 0.8}, {"members": 3}, {"sweep": "s1"}
    )
    run = tracking.client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("best", "FINISHED")
    assert run.data.tags.items() >= {"kind": "ensemble", "sweep": "s1"}.items()
    assert run.data.metrics == {"dev/overall": 0.8}
    assert run.data.params == {"members": "3"}
    files = {entry.path for entry in tracking.client.list_artifacts(run_id)}
    assert files == {"ensemble.json", "README.md"}


def test_a_folder_without_an_ensemble_is_refused(tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"no ensemble\.json"):
        log_ensemble(tracking, "none", tmp_path, {}, {}, {})


def test_a_run_that_cannot_be_completed_has_failed(tracking: Tracking, bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="metric dev/overall at step 0 is nan"):
        log_ensemble(tracking, "bad", bundle, {"dev/overall": float("nan")}, {}, {"try": "bad"})
    (run,) = tracking.search({"try": "bad"})
    assert run.info.status == "FAILED"


def chosen(digest: str, **changes: object) -> Chosen:
    content = {
        "name": "mine",
        "metrics": {"held_out/overall": 0.7},
        "steps": {"trajectory/sentiment/accuracy": [0.5, 0.6]},
        "params": {"method": "top"},
        "tags": {"members": "s.a.0001"},
        "files": lambda: {"choice.json": b"{}"},
    }
    return Chosen(digest=digest, **(content | changes))  # type: ignore[arg-type]


def test_a_choice_is_logged_once(tracking: Tracking) -> None:
    run_id, is_new = log_choice(tracking, chosen("one"))
    assert is_new
    unused: dict[str, object] = {"files": None}  # files are not written again
    assert log_choice(tracking, chosen("one", **unused)) == (run_id, False)
    assert log_choice(tracking, chosen("two"))[1]
    run = tracking.client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    tags = {"kind": "ensemble", "choice": "one", "members": "s.a.0001"}
    assert run.data.tags.items() >= tags.items()
    history = tracking.client.get_metric_history(run_id, "trajectory/sentiment/accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.6)]
    assert [entry.path for entry in tracking.client.list_artifacts(run_id)] == ["choice.json"]


def test_a_choice_that_was_logged_incompletely_is_logged_again(tracking: Tracking) -> None:
    with pytest.raises(IntegrityError, match="is nan, not a finite number"):
        log_choice(tracking, chosen("three", metrics={"held_out/overall": float("nan")}))
    run_id, is_new = log_choice(tracking, chosen("three"))
    assert is_new
    found = tracking.search({"kind": "ensemble", "choice": "three"})
    assert [run.info.status for run in found] == ["FAILED", "FINISHED"]
    assert found[1].info.run_id == run_id


def test_an_unreachable_server_is_reported(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9: .*refused"):
        log_ensemble(Tracking("http://127.0.0.1:9"), "x", bundle, {}, {}, {})
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9: .*refused"):
        log_choice(Tracking("http://127.0.0.1:9"), chosen("x"))
