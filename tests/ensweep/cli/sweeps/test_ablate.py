"""The command `ensweep ablate`."""

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


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, ValueError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "runs"


@pytest.fixture(scope="module")
def words(storage: Path, tiny_encoder: Path, tiny_data: Path) -> list[str]:
    """The command that runs B4 and similar rows over two seeds."""
    return [
        *("ablate", "figure2", "--rows", "b4,b3-ensemble-distillation", "--name", "mine"),
        *("--storage", str(storage), "--data-dir", str(tiny_data), f"model.encoder={tiny_encoder}"),
        *("train.num_epochs=2", "pretrain.max_steps=3", "train.precision=fp32", "optim.lr=1e-3"),
        *("resources.gpus_per_trial=0", "resources.max_concurrent_trials=1", "--seeds", "2"),
    ]


@pytest.fixture(scope="module")
def ran(words: list[str], one_ray: None) -> Result:
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        return invoke(*words)


@pytest.mark.slow
def test_a_study_runs_its_rows_and_logs_its_tables(ran: Result, storage: Path) -> None:
    """What rows share is computed once: the encoder of all, and the teachers for seeds 0 and 1,
    which are the base row's trials."""
    assert ran.exit_code == 0, ran.stderr
    assert "4 rows, 6 trials" in ran.stderr
    assert "B3 by epoch" in ran.stdout
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
    names = {"ablation.csv", "ablation.md", "ablation.png", "runs.csv", "curves.csv"}
    names |= {"figure4.png", "figure5.png"}
    assert {path.name for path in folder.iterdir()} == names
    rows = pd.read_csv(folder / "runs.csv").groupby("row")["trial"].apply(list)
    assert rows["B4 of 20 epochs"] == rows["B3 + self-distillation"] == ["0003-b4", "0004-b4"]
    tracking = resolve_tracking(storage)
    (run,) = tracking.search({"kind": "sweep"})
    artifacts = tracking.client.list_artifacts(run.info.run_id, "ablation")
    assert {Path(artifact.path).name for artifact in artifacts} == names


@pytest.mark.slow
def test_a_study_is_evaluated_again(
    ran: Result, words: list[str], storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same numbers, also from an object store."""
    table = storage / "mine" / "ablation" / "ablation.csv"
    before = table.read_bytes()
    with pytest.raises(ConfigError, match="0002-b3 ran with other settings"):
        invoke(*words, "--seeds", "1", "--evaluate-only")
    again = invoke(*words, "--evaluate-only", "--json")
    assert again.exit_code == 0
    content = json.loads(again.stdout)
    recipes = [line["recipe"] for line in content["lines"]]
    assert recipes == ["b3", "b4", "b4", "b3-ensemble-distillation"]
    assert content["lines"][0]["differences"] is None
    overall = content["lines"][1]["differences"]["dev/overall"]
    assert overall["low"] <= overall["value"] <= overall["high"]
    assert table.read_bytes() == before
    machines = Machines(monkeypatch, tmp_path)
    for path in (path for path in (storage / "mine").rglob("*") if path.is_file()):
        machines.memory.put(path.relative_to(storage).as_posix(), path)
    place = ["--storage", URI, "--tracking-uri", f"sqlite:///{storage}/mlflow.db"]
    there = invoke(*words, "--evaluate-only", "--json", *place)
    assert json.loads(there.stdout) == content | {"folder": f"{URI}/mine/ablation"}


def test_evaluate_only_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="--name"):
        invoke("ablate", "signs", "--evaluate-only")


def test_resume_if_begun_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="--resume-if-begun needs the --name"):
        invoke("ablate", "signs", "--resume-if-begun")


def test_a_stopped_study_is_continued_by_the_same_command(
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
    config = from_flat({"optim.lr": 0.5}).flat()  # not the row's learning rate
    record = TrialRecord("0001-b3", "paper", "b3", config, {}, 0, "data", None, 0.0)
    TrialFolder(tmp_path / "paper" / "trials" / "0001-b3").create(record)
    with pytest.raises(ConfigError, match="0001-b3 ran with other settings"):
        invoke(*words)
