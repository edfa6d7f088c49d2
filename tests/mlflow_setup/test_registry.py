from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.registry import log_ensemble
from mlflow_setup.tracking import Tracking, resolve_tracking


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return resolve_tracking(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "ensemble.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Card")
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "model.safetensors").write_text("large")
    return tmp_path


def test_an_ensemble_is_a_run_with_its_description(tracking: Tracking, bundle: Path) -> None:
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


def test_a_run_that_could_not_be_completed_is_not_left_running(
    tracking: Tracking, bundle: Path
) -> None:
    with pytest.raises(IntegrityError, match="metric dev/overall at step 0 is nan"):
        log_ensemble(tracking, "bad", bundle, {"dev/overall": float("nan")}, {}, {"try": "bad"})
    (run,) = tracking.search({"try": "bad"})
    assert run.info.status == "FAILED"


def test_an_unreachable_server_is_named(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9: .*refused"):
        log_ensemble(Tracking("http://127.0.0.1:9"), "x", bundle, {}, {}, {})
