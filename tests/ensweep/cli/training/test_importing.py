"""`ensweep data import` and `ensweep init`, and what they write."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from search.config.load import read_sweep
from trainable.config.constraints import settings_without_effect
from trainable.config.recipe import resolve


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    rows = (f"the film {n} was long,{('bad', 'good')[n % 2]}\n" for n in range(80))
    path.write_text("text,verdict\n" + "".join(rows))
    return path


def _ensweep(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def test_a_dry_run_shows_and_writes_nothing(reviews: Path, tmp_path: Path) -> None:
    done = _ensweep("data", "import", reviews, "-o", tmp_path / "data", "-n", "--test-share", 0)
    assert done.exit_code == 0, done.output
    assert "label     verdict: bad 40, good 40   (--label --labels)" in done.stderr
    assert "rows      train 64, dev 16; dev cut by a hash" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--task", "film", "--labels", "good, bad"], ['labels: ["good", "bad"]', "  film:"]),
        (["--metric", "macro_f1", "--dev-share", "0.5"], ["metric: macro_f1"]),
        (["--kind", "multilabel", "--label-separator", ";"], ['label_separator: ";"']),
    ],
)
def test_options_correct_what_was_detected(
    reviews: Path, tmp_path: Path, options: list[str], wanted: list[str]
) -> None:
    done = _ensweep("data", "import", reviews, "--output", tmp_path / "data", *options)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "data" / "tasks.yaml").read_text()
    assert all(line in text for line in wanted), text
    assert _ensweep("data", "check", tmp_path / "data").exit_code == 0


@pytest.mark.parametrize("is_imported", [False, True])
def test_init_writes_a_recipe_and_a_sweep(reviews: Path, tmp_path: Path, is_imported: bool) -> None:
    place, mine = reviews, tmp_path / "mine"
    if is_imported:
        place = tmp_path / "data"
        assert _ensweep("data", "import", reviews, "--output", place).exit_code == 0
    done = _ensweep("init", place, "--output", mine)
    assert done.exit_code == 0, done.output
    assert f"next: ensweep sweep {mine}/sweep.yaml --name mine" in done.stderr
    config = resolve(str(mine / "recipe.yaml"), (), {}).config
    assert config.task_records()["reviews"].labels == ("bad", "good")
    assert Path(config.data.dir) == (place if is_imported else mine / "data").resolve()
    assert settings_without_effect(config) == []
    sweep = read_sweep(str(mine / "sweep.yaml"), (), {})
    assert sweep.first(0)[0].settings["tasks.reviews.labels"] == ["bad", "good"]
    moved = Path(shutil.move(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved")))
    config = resolve(
        str(moved / "mine" / "recipe.yaml"), (), {}
    ).config  # data, recipe and sweep were moved together
    assert (Path(config.data.dir) / "tasks.yaml").is_file()
    shutil.move(moved, tmp_path)
    again = _ensweep("init", place, "--output", mine)
    assert again.exception.exit_code == 2  # type: ignore[union-attr]


def test_the_printed_names_are_free_and_the_folders_own(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    done = _ensweep("data", "import", reviews, "--output", "data")
    assert "next: ensweep init data --output mine2" in done.stderr
    done = _ensweep("init", "data", "--output", "My tickets")
    assert "next: ensweep sweep 'My tickets/sweep.yaml' --name My-tickets" in done.stderr
