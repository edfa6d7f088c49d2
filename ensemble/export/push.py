"""Uploads a verified bundle to a repository on the Hugging Face hub, in one commit."""

import glob
from pathlib import Path
from typing import Any

from ensemble.bundle.format import verify
from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.manifest import MANIFEST, is_ignored_file
from mlflow_setup.text import first_line, printable
from mlflow_setup.uris import redact


def push(folder: Path, repo: str, *, is_private: bool = False, api: Any = None) -> str:
    """Upload a bundle to the hub's repository `owner/name`, creating it if needed, and return the
    URL of the commit.

    Files of an older bundle in the repository are deleted, because a bundle with extra files does
    not verify.

    Args:
        is_private: whether a new repository is private.
        api: a `huggingface_hub.HfApi`; default: with the user's login.

    Raises:
        IntegrityError: the bundle is not intact.
        ConfigError: the repository's name is invalid, it cannot be written to, it holds something
            other than a bundle, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    verify(folder)
    api = api or HfApi()
    try:
        api.create_repo(repo, private=is_private, exist_ok=True)
        there = {name for name in api.list_repo_files(repo) if not is_ignored_file(name)}
        if there - {"README.md"} and MANIFEST not in there:
            raise ConfigError(
                f"{repo}: holds files that are not of a bundle", fix="name another repository"
            )
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            ignore_patterns=[".gitattributes", "*.DS_Store"],
            delete_patterns=[glob.escape(name) for name in sorted(there - files)] or None,
            commit_message=f"Bundle {folder.resolve().name}",
        )
    except (HTTPError, HFValidationError, OSError) as error:
        reason = printable(redact(first_line(error)))
        raise ConfigError(
            f"{repo}: cannot be pushed to: {reason}",
            fix="hf auth login, with a token that may write; HF_HUB_OFFLINE must not be set",
        ) from None
    return str(commit.commit_url)
