"""The commands `ensweep ablate` and `ensweep studies`."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from stores import URI, Machines
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import TrialRecord
from mlflow_setup.tracking.store import resolve_tracking
from search.config.sweep_config import Budget, SweepConfig
from search.driver import sweep
from search.storage.sweep_folder import SweepFolder
from trainable.config.parse import from_flat
from trainable.storage.trial_folder import TrialFolder


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "ENSWEEP_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, ValueError):
        raise result.exception
    return result


def test_studies_are_listed_with_a_line_each() -> None:
    lines = invoke("studies").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "figure2",
        "figure3",
        "further",
        "heads",
        "paper",
        "signs",
    ]
    listed = json.loads(invoke("studies", "--json").stdout)["studies"]
    assert listed["figure3"].startswith("The paper's figure 3")


@pytest.mark.slow
def test_a_study_from_start_to_end(
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    one_ray: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B4 and similar rows over two seeds under Ray; then only the tables, which are the same.

    What rows share is computed once: the encoder of all, and the teachers for seeds 0 and 1, which
    are the base row's trials.
    """
    storage = tmp_path / "runs"
    words = [
        *("ablate", "figure2", "--rows", "b4,b3-ensemble-distillation", "--name", "mine"),
        *("--storage", str(storage), "--data-dir", str(tiny_data), f"model.encoder={tiny_encoder}"),
        *("train.num_epochs=2", "pretrain.max_steps=3", "train.precision=fp32", "optim.lr=1e-3"),
        *("resources.gpus_per_trial=0", "resources.max_concurrent_trials=1"),
    ]
    result = invoke(*words, "--seeds", "2")
    assert result.exit_code == 0, result.stderr
    assert "4 rows, 6 trials" in result.stderr
    assert "B3 by epoch" in result.stdout
    shared = {
        kind: len(list((storage / ".shared").glob(f"{kind}/*/{file}")))
        for kind, file in (
            ("encoders", "config.json"),
            ("soft_labels", "sentiment.parquet"),
            ("teachers", "config.json"),
        )
    }
    assert shared == {"encoders": 1, "soft_labels": 4, "teachers": 2}  # for seeds 2 and 3
    folder = storage / "mine" / "ablation"
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"ablation.csv", "ablation.md", "ablation.png", "runs.csv", "curves.csv"}
    assert names | {"figure4.png", "figure5.png"} == set(written)
    rows = pd.read_csv(folder / "runs.csv").groupby("row")["trial"].apply(list)
    assert rows["B4 of 20 epochs"] == rows["B3 + self-distillation"] == ["0003-b4", "0004-b4"]
    tracking = resolve_tracking(storage)
    (run,) = tracking.search({"kind": "sweep"})
    artifacts = tracking.client.list_artifacts(run.info.run_id, "ablation")
    assert {Path(artifact.path).name for artifact in artifacts} == set(written)
    with pytest.raises(ConfigError, match="0002-b3 ran with other settings"):
        invoke(*words, "--seeds", "1", "--evaluate-only")
    again = invoke(*words, "--seeds", "2", "--evaluate-only", "--json")
    assert again.exit_code == 0
    content = json.loads(again.stdout)
    assert [line["recipe"] for line in content["lines"]] == [
        *("b3", "b4", "b4", "b3-ensemble-distillation")
    ]
    assert content["lines"][0]["differences"] is None
    overall = content["lines"][1]["differences"]["dev/overall"]
    assert overall["low"] <= overall["value"] <= overall["high"]
    assert (folder / "ablation.csv").read_bytes() == written["ablation.csv"]
    machines = Machines(monkeypatch, tmp_path)
    for path in (path for path in (storage / "mine").rglob("*") if path.is_file()):
        machines.memory.put(path.relative_to(storage).as_posix(), path)
    place = ["--storage", URI, "--tracking-uri", f"sqlite:///{storage}/mlflow.db"]
    there = invoke(*words, "--seeds", "2", "--evaluate-only", "--json", *place)
    assert json.loads(there.stdout) == content | {"folder": f"{URI}/mine/ablation"}


def test_evaluate_only_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="--name"):
        invoke("ablate", "signs", "--evaluate-only")


def test_resume_if_begun_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="--resume-if-begun needs the --name"):
        invoke("ablate", "signs", "--resume-if-begun")


def test_the_same_command_goes_on_with_a_study_piece_by_piece(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the time limit each time; tables are shown once the base row has ended."""
    calls: list[tuple[str, object]] = []
    stopped = SimpleNamespace(stop=("its time is up", 75))

    def run_sweep(given: SweepConfig, name: str, storage: Path, *_: object, **__: object) -> object:
        calls.append(("run", given.budget.max_hours))
        SweepFolder(storage, name).create(given)
        return stopped

    def resume_sweep(name: str, *_: object, budget: Budget, **__: object) -> object:
        calls.append(("resume", budget.max_hours))
        return stopped

    monkeypatch.setattr(sweep, "run_sweep", run_sweep)
    monkeypatch.setattr(sweep, "resume_sweep", resume_sweep)
    words = ["ablate", "heads", "--name", "paper", "--storage", str(tmp_path), "--seeds", "1"]
    words += ["--data-dir", str(tiny_data), "--resume-if-begun", "--max-hours", "0.5"]
    for _ in range(2):
        result = invoke(*words)
        assert result.exit_code == 75
        assert "study paper was stopped: its time is up" in result.stderr
        assert "run this command again with --name paper and --resume-if-begun" in result.stderr
        assert "the base row 'B3' has no scores" in result.stderr
    assert calls == [("run", 0.5), ("resume", 0.5)]
    write_trial_of_another_study(tmp_path / "paper")
    with pytest.raises(ConfigError, match="0001-b3 ran with other settings"):
        invoke(*words)


def write_trial_of_another_study(folder: Path) -> None:
    """The first trial has another learning rate than its row."""
    config = from_flat({"optim.lr": 0.5}).flat()
    record = TrialRecord("0001-b3", "paper", "b3", config, {}, 0, "data", None, 0.0)
    TrialFolder(folder / "trials" / "0001-b3").create(record)
