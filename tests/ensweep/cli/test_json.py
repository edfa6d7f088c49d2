"""Every command that ends has `--json`; the JSON of commands that write data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from ensweep.cli.app import app

WITHOUT_JSON = {
    *("ui", "serve"),  # run until they are stopped
    *(f"{noun} {verb}" for noun in ("recipes", "sweeps", "studies") for verb in ("show", "copy")),
}
"""The others print the file itself, or copy it."""


def _leaves(of: Any, *path: str) -> Iterator[tuple[str, Any]]:
    below = getattr(of, "commands", {})
    for name, command in below.items():
        yield from _leaves(command, *path, name)
    if not below:
        yield " ".join(path), of


def test_every_command_that_ends_has_the_option() -> None:
    leaves = dict(_leaves(typer.main.get_command(app)))
    has = {name: any("--json" in each.opts for each in of.params) for name, of in leaves.items()}
    assert {name for name, there in has.items() if not there} == WITHOUT_JSON


def _json(*words: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found.pop("schema_version") == 1
    return found


def test_json_of_written_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sample"
    found = _json("data", "sample", folder, "--seed", 3, "--train-rows", 5, "--dev-rows", 5)
    assert found == {
        "folder": str(folder),
        "seed": 3,
        "files": sorted(p.name for p in folder.iterdir()),
    }
    assert "quora-dev.csv" in found["files"]

    def fetch(folder: Path, report: Any) -> None:
        report("a line for people")
        folder.mkdir()
        (folder / "quora-dev.csv").touch()

    monkeypatch.setattr("trainable.data.public_datasets.fetch", fetch)
    fetched = tmp_path / "fetched"
    assert _json("data", "fetch", fetched) == {"folder": str(fetched), "files": ["quora-dev.csv"]}


@pytest.mark.parametrize("is_dry", [True, False])
def test_json_of_imported_data(tmp_path: Path, is_dry: bool) -> None:
    reviews, folder = tmp_path / "reviews.csv", tmp_path / "data"
    rows = (f"the film {n} was long,{('bad', 'good')[n % 2]}\n" for n in range(80))
    reviews.write_text("text,verdict\n" + "".join(rows))
    words = ["--output", folder, "--test-share", "0", *["--dry-run"] * is_dry]
    found = _json("data", "import", reviews, *words)
    facts = {"folder": str(folder), "task": "reviews", "kind": "classification"}
    split = {"labels": ["bad", "good"], "rows": {"train": 64, "dev": 16}}
    assert found == {**facts, **split, "is_written": not is_dry}
    assert folder.exists() is not is_dry
    mine = tmp_path / "mine"
    if not is_dry:
        found = _json("init", folder, "--output", mine)
        files = {"recipe": str(mine / "recipe.yaml"), "sweep": str(mine / "sweep.yaml")}
        assert found == {**files, "data": str(folder), "tasks": ["reviews"]}


def test_json_of_a_pushed_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.export.push.push", lambda *_, is_private: "https://hub/c/1")
    found = _json("push", tmp_path, "me/reviews")
    assert found == {"folder": str(tmp_path), "repo": "me/reviews", "commit": "https://hub/c/1"}
