"""A sweep's report: all its sections, and the reasons why some are absent."""

import json
import shutil
from pathlib import Path

import pytest
from past_sweep import Past
from scored_sweep import log_choice, scored_sweep
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.schema import Outcome, RunKind
from mlflow_setup.tracking.store import resolve_tracking
from search.reports.pages.content import Report, Section
from search.reports.report import sweep_report
from search.storage.sweep_folder import SweepFolder

ORDER = (
    *("leaderboard", "curves", "history", "settings", "importance", "rungs"),
    *("front", "ensemble", "errors", "data", "commands"),
)


def report_of(storage: Path, name: str = "demo") -> Report:
    return sweep_report(SweepFolder(storage, name), resolve_tracking(storage), storage / ".cache")


def sections(report: Report) -> dict[str, Section]:
    return {section.key: section for section in report.sections}


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A sweep of seven trials with an ensemble."""
    storage = tmp_path_factory.mktemp("whole")
    data = Path(shutil.copytree(tiny_data, storage / "data"))
    scored_sweep(storage, data, num_trials=7)
    log_choice(storage)
    return storage, report_of(storage)


def test_the_verdict_comes_first_and_nothing_is_absent(whole: tuple[Path, Report]) -> None:
    report = whole[1]
    assert report.verdict[0].startswith("Ship ")
    counts = "7 trials: 5 finished, 1 pruned, 1 failed; together they trained for 4.0 min."
    assert report.verdict[1] == counts
    assert [section.key for section in report.sections] == list(ORDER)
    assert {section.key: section.absent for section in report.sections if section.absent} == {}
    names = [plot.name for plot in report.plots]
    assert len(set(names)) == len(names)
    assert {"figure4", "figure5", "history", "parallel", "slice", "importances"} <= set(names)
    assert {"intermediate", "front", "gain", "weights", "agreement", "errors"} <= set(names)


def test_the_leaderboard_has_ensemble_baselines_times_and_reasons(
    whole: tuple[Path, Report],
) -> None:
    (table,) = sections(whole[1])["leaderboard"].tables
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["trial"] for row in rows[:2]] == ["ensemble", "majority"]
    assert rows[0]["outcome"] == "held-out"
    assert table.strong == {0, 2}
    by_name = {row["trial"]: row for row in rows}
    assert by_name["0003"]["why it ended"] == "OSError: <b>no</b> space"
    assert by_name["0002"]["why it ended"].startswith("rung 1: 0.500 below")
    assert by_name["0001"]["seconds"] == "30"
    assert by_name["0001"]["MB"] == "4.0"


def test_the_errors_are_those_of_the_choice(whole: tuple[Path, Report]) -> None:
    errors = sections(whole[1])["errors"]
    assert "Predictions of the shipped ensemble" in errors.lines[0]
    titles = [panel.title for panel in errors.plots[0].panels]
    assert titles[0] == "sentiment: confusion"
    assert titles[1].startswith("sentiment: calibration, error 0.")
    assert "similarity: residuals and their mean" in titles
    sentiment = errors.tables[0]
    assert sentiment.title == "sentiment: the 32 worst of 32 rows"
    losses = [float(row[3]) for row in sentiment.rows]
    assert losses == sorted(losses, reverse=True)
    assert all(row[4] for row in sentiment.rows)  # the sentences are there


def test_the_data_and_the_commands(whole: tuple[Path, Report]) -> None:
    data = sections(whole[1])["data"].tables[0]
    assert [row[0] for row in data.rows] == ["sentiment", "paraphrase", "similarity"]
    assert [row[3:5] for row in data.rows] == [["48", "32"]] * 3
    commands = sections(whole[1])["commands"].commands
    assert [command.split()[1] for command in commands] == [
        *("sweep", "ensemble", "export", "report"),
    ]
    assert "--method simple" in commands[1]


def test_data_that_have_changed_are_not_shown(whole: tuple[Path, Report]) -> None:
    path = whole[0] / "data" / "ids-sst-dev.csv"
    before = path.read_text()
    path.write_text(before.replace("film", "play"))
    try:
        errors = sections(report_of(whole[0]))["errors"]
    finally:
        path.write_text(before)
    assert any("have changed since the sweep" in line for line in errors.lines)
    assert [row[4] for row in errors.tables[0].rows] == [""] * 32
    assert all(row[4] for row in errors.tables[1].rows)


def test_sections_absent_without_an_ensemble_or_enough_trials(
    tiny_data: Path, tmp_path: Path
) -> None:
    scored_sweep(tmp_path, tiny_data, num_trials=4, is_tracked=False)
    report = report_of(tmp_path)
    absent = {section.key: section.absent for section in report.sections if section.absent}
    assert set(absent) == {"importance", "front", "ensemble"}
    assert absent["importance"] == (
        "sweep demo: 2 finished trials; 4 are needed to compute importances"
    )
    assert "no ensemble has been chosen yet: ensweep ensemble demo" in str(absent["front"])
    assert report.verdict[0].startswith("The best trial is 000")
    assert "the baseline majority" in report.verdict[0]
    assert "the best overall" in sections(report)["errors"].lines[0]


def test_a_report_of_baselines_alone(tiny_data: Path, tmp_path: Path) -> None:
    folder = scored_sweep(tmp_path, tiny_data, num_trials=1, is_tracked=False)
    shutil.rmtree(folder.trial("0001").path)
    report = report_of(tmp_path)
    assert report.verdict[0].startswith("The baseline majority has 0.")
    absent = {section.key for section in report.sections if section.absent}
    assert absent == set(ORDER) - {"leaderboard", "errors", "data", "commands"}
    assert all(section.absent is None or len(section.absent) < 200 for section in report.sections)


def test_a_sweep_that_has_just_begun(tmp_path: Path) -> None:
    past = Past(tmp_path)
    with pytest.raises(NothingUsableError, match="sweep s: no trial has begun"):
        report_of(tmp_path, "s")
    past.trial("0001-b2", (), None)
    report = report_of(tmp_path, "s")
    assert report.verdict[0] == "No trial has a score yet."
    absent = {section.key for section in report.sections if section.absent}
    assert absent == set(ORDER) - {"leaderboard", "data", "commands"}


def test_the_command_writes_a_page_and_logs_it(whole: tuple[Path, Report]) -> None:
    storage, _ = whole
    words = ["report", "demo", "--storage", str(storage), "--static"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    page = storage / "demo" / "report" / "demo.html"
    assert result.stdout.splitlines()[-1].startswith(f"report: {page} (")
    assert page.stat().st_size < 5e6
    assert page.read_text().index("Ship ") < page.read_text().index("Leaderboard</h2>")
    assert "OSError: &lt;b&gt;no&lt;/b&gt; space" in page.read_text()
    markdown = page.with_suffix(".md").read_text()
    for picture in ("history", "parallel", "importances", "slice", "figure4", "figure5"):
        assert f"(pictures/{picture}.png)" in markdown
        assert (page.parent / "pictures" / f"{picture}.png").is_file()
    tracking = resolve_tracking(storage)
    (run,) = tracking.search({"kind": RunKind.SWEEP.value, "sweep": "demo"})
    logged = {file.path for file in tracking.client.list_artifacts(run.info.run_id, "report")}
    assert {"report/demo.html", "report/demo.md"} <= logged


def test_json_names_the_files_and_what_is_absent(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.5, 0.6, 0.6, 0.6), Outcome.FINISHED, **{"optim.lr": 1e-3})
    result = CliRunner().invoke(app, ["report", "--storage", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["sweeps"] == ["s"]
    assert {"front", "errors", "importance"} <= set(content["absent"])
    assert content["files"][0].endswith("s/report/s.html")
    assert "not logged: no sweep 's' is tracked" in result.stderr
    assert 4e6 < Path(content["files"][0]).stat().st_size < 8e6
