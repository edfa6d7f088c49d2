"""Comparisons of sweeps: settings that differ, gains, and sweeps that are not comparable."""

import json
import shutil
from pathlib import Path

import pytest
from scored_sweep import scored_sweep
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome
from search.reports.comparison import compare
from search.storage.sweep_folder import SweepFolder


@pytest.fixture(scope="module")
def pair(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepFolder]:
    storage = tmp_path_factory.mktemp("pair")
    first = scored_sweep(storage, tiny_data, "first", num_trials=4, is_tracked=False)
    other = {"tasks": ("sentiment",), "seed": 1, "is_tracked": False}
    scored_sweep(storage, tiny_data, "second", num_trials=5, **other)
    return storage, first


def test_sweeps_are_compared_by_their_best_trials(pair: tuple[Path, SweepFolder]) -> None:
    storage, first = pair
    found = compare([first, SweepFolder(storage, "second")], num_replicates=200)
    one, two = found.sides
    assert one.outcomes == {Outcome.FINISHED: 3, Outcome.PRUNED: 1, Outcome.FAILED: 1}
    assert one.best_trial in ("0001", "0004")  # neither a baseline nor the pruned one
    assert set(two.scores) == {"sentiment", "overall"}
    assert found.settings["data.tasks"][1] == ["sentiment"]
    assert found.settings["search.num_samples"] == (4, 5)
    assert "optim.lr" not in found.settings
    gain = found.gains[0]["sentiment"]
    assert gain.value == pytest.approx(two.scores["sentiment"] - one.scores["sentiment"])
    assert gain.low <= gain.value <= gain.high
    assert found.common_hours == one.hours == pytest.approx(330 / 3600)
    assert one.best_after(one.hours) == one.best_by_hours[-1][1]
    assert one.best_after(-1) is None
    assert one.trial_hours == pytest.approx(5 * 30 / 3600)


def test_a_sweep_does_not_differ_from_itself(pair: tuple[Path, SweepFolder]) -> None:
    found = compare([pair[1], pair[1]], num_replicates=50)
    assert found.settings == {}
    assert {(g.value, g.low, g.high) for g in found.gains[0].values()} == {(0.0, 0.0, 0.0)}


def test_sweeps_of_different_data_or_tasks_are_refused(
    pair: tuple[Path, SweepFolder], tiny_data: Path
) -> None:
    storage, first = pair
    other = Path(shutil.copytree(tiny_data, storage / "data"))
    path = other / "ids-sst-dev.csv"
    path.write_text(path.read_text().replace("s-dev-0\t", "s-dev-zero\t"))
    scored_sweep(storage, other, "third", num_trials=1, is_tracked=False)
    with pytest.raises(ConfigError, match=r"first and third are scored on different sentiment dev"):
        compare([first, SweepFolder(storage, "third")], num_replicates=50)
    scored_sweep(storage, other, "pairs", 1, ("paraphrase",), is_tracked=False)
    with pytest.raises(ConfigError, match=r"second and pairs have no task in common"):
        compare([SweepFolder(storage, "second"), SweepFolder(storage, "pairs")], 50)


def test_a_sweep_without_a_score_is_refused(pair: tuple[Path, SweepFolder], tmp_path: Path) -> None:
    empty = SweepFolder(tmp_path, "empty")
    empty.create(pair[1].read())
    with pytest.raises(NothingUsableError, match="sweep empty: no trial has a score"):
        compare([pair[1], empty], 50)


def test_the_leaderboard_command_prints_sweeps_side_by_side(pair: tuple[Path, SweepFolder]) -> None:
    words = ["leaderboard", "first", "second", "--storage", str(pair[0])]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].split() == ["first", "second"]
    for name in ("best trial", "difference in sentiment", "time to its best", "settings that"):
        assert name in shown.stdout
    content = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert content["sweeps"] == ["first", "second"]
    assert content["settings"]["search.num_samples"] == [4, 5]


def test_the_report_of_several_sweeps(pair: tuple[Path, SweepFolder]) -> None:
    words = ["report", "first", "second", "--storage", str(pair[0]), "--static"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("second and first have different tasks: no overall.\n")
    page = pair[0] / "first" / "report" / "first-second.html"
    text = page.read_text()
    for part in ("The best of each", "Best by time", "Settings that differ", "search.num_samples"):
        assert part in text
    assert "(pictures/best-by-time.png)" in page.with_suffix(".md").read_text()
