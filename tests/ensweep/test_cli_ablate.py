"""`ensweep ablate` and `ensweep studies` as a user types them."""

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from ensweep.cli import ablate
from mlflow_setup.errors import ConfigError
from mlflow_setup.tracking import resolve_tracking

app = typer.Typer()
ablate.register(app)


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
    assert [line.split()[0] for line in lines] == ["figure2", "figure3", "signs"]
    listed = json.loads(invoke("studies", "--json").stdout)["studies"]
    assert listed["figure3"].startswith("The paper's figure 3")


@pytest.mark.slow
def test_a_study_from_start_to_end(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Figure 3 over two seeds under Ray; then the tables alone, which come out the same."""
    storage = tmp_path / "runs"
    words = [
        *("ablate", "figure3", "--seeds", "2", "--name", "mine", "--storage", str(storage)),
        *("--data-dir", str(tiny_data), f"model.encoder={tiny_encoder}", "train.num_epochs=2"),
        *("probe.num_epochs=1", "train.precision=fp32", "optim.lr=1e-3"),
        *("resources.gpus_per_trial=0", "resources.max_concurrent_trials=2"),
    ]
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    for label in ("baseline", "baseline + paraphrase structure", "baseline + LP-FT"):
        assert label in result.stdout
    folder = storage / "mine" / "ablation"
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"ablation.csv", "ablation.md", "ablation.png", "runs.csv"}
    assert names | {"figure4.png", "figure5.png"} == set(written)
    assert len(pd.read_csv(folder / "runs.csv")) == 6
    tracking = resolve_tracking(storage)
    (run,) = tracking.search({"kind": "sweep"})
    artifacts = tracking.client.list_artifacts(run.info.run_id, "ablation")
    assert {Path(artifact.path).name for artifact in artifacts} == set(written)
    again = invoke(*words, "--evaluate-only", "--json")
    assert again.exit_code == 0
    content = json.loads(again.stdout)
    assert [line["recipe"] for line in content["lines"]] == [
        *("baseline", "baseline-paraphrase-structure", "baseline-lp-ft")
    ]
    assert content["lines"][0]["differences"] is None
    overall = content["lines"][1]["differences"]["dev/overall"]
    assert overall["low"] <= overall["value"] <= overall["high"]
    assert (folder / "ablation.csv").read_bytes() == written["ablation.csv"]


def test_evaluate_only_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="--name"):
        invoke("ablate", "signs", "--evaluate-only")
