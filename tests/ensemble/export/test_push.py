"""What `ensweep push` uploads to the hub is a bundle that verifies."""

import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

from ensemble.bundle.format import CARD, Bundle
from ensemble.export.push import push
from mlflow_setup.errors import ConfigError, IntegrityError


class Hub:
    """Repositories as folders; the calls of `huggingface_hub.HfApi` that are made."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        if repo.count("/") > 1:
            raise HFValidationError(f"not a repo id: {repo}")
        (self.root / repo).mkdir(parents=True, exist_ok=True)
        (self.root / repo / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.private = private

    def list_repo_files(self, repo: str) -> list[str]:
        root = self.root / repo
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        ignore_patterns: list[str],
        delete_patterns: list[str] | None,
        commit_message: str,
    ) -> Any:
        for name in self.list_repo_files(repo_id):
            if any(fnmatchcase(name, pattern) for pattern in delete_patterns or ()):
                (self.root / repo_id / name).unlink()
        ignore = shutil.ignore_patterns(*ignore_patterns)
        shutil.copytree(folder_path, self.root / repo_id, ignore=ignore, dirs_exist_ok=True)
        self.message = commit_message
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


def test_a_pushed_bundle_verifies(tiny_bundle: Path, hub: Hub) -> None:
    commit = push(tiny_bundle, "me/reviews", is_private=True, api=hub)
    assert commit == "https://hub/me/reviews/commit/1"
    assert hub.private
    assert hub.message == "Bundle bundle"
    assert Bundle.load(hub.root / "me" / "reviews").contents == Bundle.load(tiny_bundle).contents


def test_an_older_bundle_is_replaced(tiny_bundle: Path, hub: Hub) -> None:
    push(tiny_bundle, "me/reviews", api=hub)
    old = hub.root / "me" / "reviews" / "encoders" / "0123[4]" / "model.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"weights of a former member")
    push(tiny_bundle, "me/reviews", api=hub)
    Bundle.load(hub.root / "me" / "reviews")


def test_a_repository_that_is_not_a_bundle_is_not_replaced(tiny_bundle: Path, hub: Hub) -> None:
    hub.create_repo("me/other", private=False, exist_ok=True)
    (hub.root / "me" / "other" / CARD).write_text("# other")
    (hub.root / "me" / "other" / "thesis.tex").write_text("text")
    with pytest.raises(ConfigError, match="me/other: holds files that are not of a bundle"):
        push(tiny_bundle, "me/other", api=hub)
    assert (hub.root / "me" / "other" / "thesis.tex").exists()


def test_errors_of_the_hub_are_reported(tiny_bundle: Path, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a/b/c: cannot be pushed to: not a repo id") as caught:
        push(tiny_bundle, "a/b/c", api=hub)
    assert "hf auth login" in str(caught.value.fix)
    for error in (OfflineModeIsEnabled("offline mode"), HTTPError("no route")):
        hub.list_repo_files = Mock(side_effect=error)  # type: ignore[method-assign]
        with pytest.raises(ConfigError, match=f"me/reviews: cannot be pushed to: {error}"):
            push(tiny_bundle, "me/reviews", api=hub)
    with pytest.raises(IntegrityError, match="no such folder"):
        push(tmp_path / "none", "me/reviews", api=hub)
