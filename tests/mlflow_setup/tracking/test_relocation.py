"""After a storage folder is renamed, its database has the new paths of artifacts."""

from pathlib import Path

from mlflow_setup.tracking.store import ARTIFACTS_FOLDER, Tracking, resolve_tracking


def track(storage: Path) -> tuple[Tracking, str]:
    """A run with an artifact and a weights URI."""
    tracking = resolve_tracking(storage)
    run = tracking.client.create_run(tracking.experiment_id)
    tracking.client.set_tag(run.info.run_id, "weights_uri", f"{storage}/s/trials/1/weights")
    tracking.client.set_tag(run.info.run_id, "note", f"{storage}/s")
    tracking.client.log_text(run.info.run_id, "content", "file.txt")
    return tracking, run.info.run_id


def test_artifacts_are_found_and_written_at_the_new_path(tmp_path: Path) -> None:
    old, new = tmp_path / "old name", tmp_path / "new name"
    _, run_id = track(old)
    old.rename(new)
    moved = resolve_tracking(new)
    found = moved.client.get_run(run_id)
    path = Path(moved.client.download_artifacts(run_id, "file.txt", str(tmp_path)))
    assert path.read_text() == "content"
    assert found.data.tags["weights_uri"] == f"{new}/s/trials/1/weights"
    assert found.data.tags["note"] == f"{old}/s"  # not read as a path
    another = moved.client.create_run(moved.experiment_id)
    moved.client.log_text(another.info.run_id, "more", "more.txt")
    assert list((new / ARTIFACTS_FOLDER).rglob("more.txt"))
    assert not old.exists()


def test_another_path_to_the_same_folder_changes_no_uri(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    tracking, run_id = track(folder)
    before = tracking.client.get_run(run_id).info.artifact_uri
    link.symlink_to(folder)
    assert resolve_tracking(link).client.get_run(run_id).info.artifact_uri == before


def test_artifacts_that_were_not_moved_with_the_database_are_found(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    _, run_id = track(old)
    new.mkdir()
    (old / "mlflow.db").rename(new / "mlflow.db")
    client = resolve_tracking(new).client
    path = Path(client.download_artifacts(run_id, "file.txt", str(tmp_path)))
    assert path.read_text() == "content"
