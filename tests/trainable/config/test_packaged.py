"""Packaged YAML files: parsed once, and no caller changes what another one reads."""

from pathlib import Path

import pytest

from trainable.config import packaged
from trainable.config.packaged import Packaged
from trainable.config.recipe import RECIPES
from trainable.config.strict_yaml import read_settings


def test_a_packaged_file_is_parsed_once_and_a_reader_may_change_what_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    monkeypatch.setattr(packaged, "read_settings", lambda p: parsed.append(p) or read_settings(p))
    (tmp_path / "one.yaml").write_text("data: {tasks: [mood]}")
    files = Packaged(tmp_path, "file")
    files.read("one")["data"]["tasks"].append("other")
    assert files.read("one") == {"data": {"tasks": ["mood"]}}
    assert parsed == [tmp_path / "one.yaml"]


def test_a_file_of_the_user_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for rate in (0.1, 0.2):
        path.write_text(f"optim: {{lr: {rate}}}")
        assert RECIPES.read(str(path)) == {"optim": {"lr": rate}}


def test_descriptions_are_those_in_the_files() -> None:
    for name, description in RECIPES.descriptions().items():
        assert f"description: {description}" in RECIPES.text(name).replace('"', "")
