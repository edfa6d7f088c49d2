"""The commands `ensweep sweep`, `resume`, `extend` and `leaderboard`."""

import csv
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from past_sweep import Past
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from ensweep.cli.shared.place import Place
from ensweep.cli.sweeps.sweep import resume_hint
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.runs.usage import Usage
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import resolve_tracking
from search.driver.result import SweepResult
from trainable.storage.trial_folder import TrialFolder


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, ValueError):
        raise result.exception
    return result


def track(storage: Path, name: str, scores: dict[str, float], reason: str = "because") -> None:
    """A finished sweep of one-epoch trials."""
    mirror = Mirror(resolve_tracking(storage), name)
    mirror.start({}, {})
    for number, (trial, score) in enumerate(scores.items()):
        folder = TrialFolder(storage / name / "trials" / trial)
        config = {"optim.lr": 0.1 * number, "model.encoder": "minilm"}
        folder.create(TrialRecord(trial, name, "b3", config, {}, 0, "data", None, time.time()))
        metrics = {"dev/overall": score, "dev/sentiment/accuracy": score / 2}
        folder.write_epoch(EpochRecord(1, metrics, {}, 1.0, time.time()))
        outcome = Outcome.FINISHED if score > 0.5 else Outcome.PRUNED
        folder.write_outcome(OutcomeRecord(outcome, reason, 1, time.time()))
        mirror.project(folder.snapshot())
    mirror.finish("FINISHED")


def test_the_leaderboard_of_the_latest_and_of_a_named_sweep(tmp_path: Path) -> None:
    track(tmp_path, "old", {"0001": 0.9})
    track(tmp_path, "new", {"0001-b2": 0.4, "0002": 0.7})
    result = invoke("leaderboard", "--storage", str(tmp_path))
    header, first, second = (line.split() for line in result.stdout.splitlines())
    scores = ["epochs", "overall", "sentiment"]
    assert header == ["#", "trial", "recipe", "outcome", *scores, "time", "MB", "lr", "why"]
    assert first == ["1", "0002", "b3", "finished", "1", "0.7000", "0.3500", "0.1", "because"]
    assert second == ["2", "0001-b2", "b3", "pruned", "1", "0.4000", "0.2000", "0", "because"]
    content = json.loads(invoke("leaderboard", "old", "--storage", str(tmp_path), "--json").stdout)
    assert content["sweep"] == "old"
    assert content["ensemble"] is None
    assert [trial["trial"] for trial in content["trials"]] == ["0001"]
    assert content["trials"][0]["metrics"] == {"dev/sentiment/accuracy": 0.45}
    assert content["trials"][0]["folder"] == str(tmp_path / "old" / "trials" / "0001")


def test_rows_and_columns_of_the_leaderboard_can_be_chosen(tmp_path: Path) -> None:
    track(tmp_path, "s", {"0001": 0.4, "0002": 0.7, "0003": 0.6}, reason="=1+1")

    def column(*words: str) -> list[str]:
        shown = invoke("leaderboard", "--storage", str(tmp_path), "--columns", "trial", *words)
        return shown.stdout.split()

    assert column() == ["trial", "0002", "0003", "0001"]
    assert column("--sort", "sentiment") == ["trial", "0002", "0003", "0001"]
    assert column("--sort", "optim.lr") == ["trial", "0001", "0002", "0003"]
    assert column("--sort", "optim.lr", "--top", "2") == ["trial", "0001", "0002"]
    with pytest.raises(ConfigError, match=r"no column 'optim.rl' \(did you mean optim.lr\?\)"):
        column("--sort", "optim.rl")
    with pytest.raises(ConfigError, match="no column 'when'"):
        column("--columns", "trial,when")
    table = invoke("leaderboard", "--storage", str(tmp_path), "--csv").stdout
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["trial"] for row in rows] == ["0002", "0003", "0001"]
    assert (rows[0]["overall"], rows[0]["why"]) == ("0.7", "'=1+1")
    assert {"seconds", "MB", "optim.lr", "why", "run", "folder"} <= set(rows[0])


def test_a_leaderboard_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match="no sweep is tracked"):
        invoke("leaderboard", "--storage", str(tmp_path))
    with pytest.raises(NothingUsableError, match="no trial of a sweep 'none'"):
        invoke("leaderboard", "none", "--storage", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demoo"], "no sweep 'demoo'; there are demo, "),
        (["demo", "optim.Lr=1"], "no key optim.Lr (did you mean optim.lr?)"),
        (["demo", "--num-samples", "0"], "search.num_samples: input should be greater than"),
        (["demo", "--seed", "-1"], "search.seed: input should be greater than"),
        (["demo", "--resume-if-begun"], "--resume-if-begun needs the --name of a sweep"),
    ],
)
def test_unknown_sweeps_and_invalid_settings_are_refused(
    tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        invoke("sweep", *words, "--storage", str(tmp_path))
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_trains_and_prints_its_best_trial(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, one_ray: None
) -> None:
    result = invoke(
        *("sweep", "demo", "--name", "tiny", "--num-samples", "4"),
        *("--data-dir", str(tiny_data), "--storage", str(tmp_path)),
        *(f"model.encoder={tiny_encoder}", "search.num_probes=2"),
        "resources.max_concurrent_trials=2",
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["rung", "epoch", "arrivals", "stops"]
    assert result.stdout.splitlines()[1].split()[:3] == ["0", "0", "4"]  # all reach the first rung
    assert "best: 000" in result.stdout
    assert re.search(r"^searching .* the baseline (frozen-linear|majority), ", result.stdout, re.M)
    assert "next: ensweep leaderboard tiny" in result.stderr
    board = json.loads(invoke("leaderboard", "--storage", str(tmp_path), "--json").stdout)
    assert board["sweep"] == "tiny"
    outcomes = {trial["trial"]: trial["outcome"] for trial in board["trials"]}
    trials = ["0001-lp-ft", "0002", "0003", "0004"]
    assert list(outcomes)[:2] in (["frozen-linear", "majority"], ["majority", "frozen-linear"])
    assert sorted(outcomes)[:4] == trials
    assert set(outcomes.values()) <= {"finished", "pruned"}
    lengths = {**dict.fromkeys(trials[:2], 4), **dict.fromkeys(trials[2:], 6)}
    for trial, outcome in outcomes.items():
        folder = TrialFolder(tmp_path / "tiny" / "trials" / trial)
        length = lengths.get(trial, 1)
        assert len(folder.epochs()) in ((length,) if outcome == "finished" else (4, 5))
        assert not folder.checkpoint_dir.exists()
        origin = folder.trial().origin["probe.lr"]
        assert origin.startswith(("search", "first trial 1")) == (trial in trials)


@pytest.mark.parametrize(
    ("words", "num_more", "budget"),
    [
        (["resume"], 0, {}),
        (["resume", "s", "--max-hours", "2"], 0, {"max_hours": 2.0}),
        (["extend", "s", "--num-samples", "5"], 5, {}),
        (["sweep", "demo", "--name", "s", "--resume-if-begun"], 0, {}),
        (
            ["sweep", "demo", "--name", "s", "--resume-if-begun", "budget.max_hours=2"],
            0,
            {"max_hours": 2.0},
        ),
    ],
)
def test_a_sweep_is_resumed_and_extended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    num_more: int,
    budget: dict[str, float],
) -> None:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.5,), Outcome.FINISHED)
    arguments: dict[str, Any] = {}

    def resume_sweep(name: str, storage: Path, tracking: object, **given: Any) -> SweepResult:
        arguments.update(given, name=name, storage=storage)
        trials = past.folder.snapshots()
        return SweepResult(name, past.folder.path, trials, (), (), Usage(1.0), ("Ctrl-C", 130))

    monkeypatch.setattr("search.driver.sweep.resume_sweep", resume_sweep)
    result = invoke(*words, "--storage", str(tmp_path))
    assert (arguments["name"], arguments["num_more"]) == ("s", num_more)
    assert arguments["budget"].model_dump(exclude_defaults=True) == budget
    hint = f"to continue: ensweep resume s --storage {tmp_path}"
    assert arguments["resume_hint"] == hint
    assert result.exit_code == 130
    assert "used: 1.00 trial-hours" in result.stdout
    assert "sweep s was stopped: Ctrl-C" in result.stderr
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("given", "environment", "more"),
    [
        ((Path("runs"), None), {}, ""),
        ((Path("/x"), "http://m:5000"), {}, " --storage /x --tracking-uri http://m:5000"),
        (
            (Path("/x"), "http://m"),
            {"ENSWEEP_STORAGE": "/x", "MLFLOW_TRACKING_URI": "http://m"},
            "",
        ),
        ((Path("runs"), None), {"ENSWEEP_STORAGE": "/x"}, " --storage runs"),
        ((Path("runs"), "http://me:hunter2@m"), {}, " --tracking-uri 'http://***@m'"),
    ],
)
def test_the_command_to_continue_has_the_options_that_the_environment_lacks(
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[Path, str | None],
    environment: dict[str, str],
    more: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resume_hint("s", Place(*given)) == f"to continue: ensweep resume s{more}"


def test_the_name_of_a_running_sweep_is_refused_with_its_process(
    tmp_path: Path, tiny_data: Path
) -> None:
    words = ["demo", "--name", "s", "--storage", str(tmp_path), "--data-dir", str(tiny_data)]
    with Lease(Past(tmp_path).folder.path) as lease, pytest.raises(ConfigError) as caught:
        invoke("sweep", *words)
    assert f"sweep s is being run by {lease.mine.describe()}" in str(caught.value)
    with pytest.raises(ConfigError, match="sweep 's' already exists"):
        invoke("sweep", *words)


def test_missing_sweeps_and_budgets_without_prices_are_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match="no sweep in"):
        invoke("resume", "--storage", str(tmp_path))
    with pytest.raises(NothingUsableError, match="no sweep 'x'"):
        invoke("extend", "x", "--storage", str(tmp_path))
    Past(tmp_path)
    with pytest.raises(ConfigError, match="--max-usd: the sweep's budget"):
        invoke("resume", "s", "--max-usd", "3", "--storage", str(tmp_path))
