"""The command `ensweep push`; the function that it calls is tested elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ensweep.cli.app import app


def test_the_commit_and_the_download_command_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def push(folder: Path, repo: str, *, is_private: bool) -> str:
        calls.append((folder, repo, is_private))
        return "https://hub/me/reviews/commit/1"

    monkeypatch.setattr("ensemble.export.push.push", push)
    done = CliRunner().invoke(app, ["push", str(tmp_path), "me/reviews", "--private"])
    assert done.exit_code == 0, done.output
    assert calls == [(tmp_path, "me/reviews", True)]
    assert done.stdout == "https://hub/me/reviews/commit/1\n"
    assert "hf download me/reviews --local-dir reviews && ensweep verify reviews" in done.stderr
