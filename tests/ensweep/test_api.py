"""The Python API; slow modules are imported only when needed."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ensweep
from ensemble.inference.describe import as_html
from mlflow_setup.errors import IntegrityError
from mlflow_setup.runs.usage import Usage
from search.config.sweep_config import SweepConfig
from search.driver.result import SweepResult
from search.storage.sweep_folder import SweepFolder

PAIR = ("how do i learn chess", "can i learn chess well")


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    return done.stdout


def test_a_bundle_predicts(tiny_bundle: Path) -> None:
    ensemble = ensweep.load(str(tiny_bundle))
    frame = ensemble.predict(["a warm and moving film"], task="sentiment")
    assert frame["label"][0] in range(5)
    assert list(ensemble.tasks) == ["sentiment", "paraphrase", "similarity"]


def test_a_moved_bundle_needs_nothing_else(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    expected = ensweep.load(tiny_bundle).predict("a film")
    assert ensweep.load("moved").predict("a film").equals(expected)


def test_probabilities_match_the_labels(tiny_bundle: Path) -> None:
    ensemble = ensweep.load(tiny_bundle)
    found = ensemble.predict_proba(["a warm film", "a dull story"], task="sentiment")
    assert list(found.columns) == [0, 1, 2, 3, 4]
    assert found.sum(axis=1).to_list() == pytest.approx([1, 1], rel=1e-6)
    labels = ensemble.predict(["a warm film", "a dull story"], task="sentiment")["label"]
    assert found.idxmax(axis=1).to_list() == labels.to_list()
    pair = ensemble.predict_proba([PAIR], task="paraphrase")
    predicted = ensemble.predict([PAIR], task="paraphrase")
    assert pair[1].to_list() == predicted["probability"].to_list()
    assert pair.sum(axis=1).to_list() == pytest.approx([1], rel=1e-6)
    with pytest.raises(ensweep.ConfigError, match="similarity: the task predicts scores"):
        ensemble.predict_proba([PAIR], task="similarity")


def test_a_bundle_is_scored_and_shown(tiny_bundle: Path, tiny_data: Path) -> None:
    ensemble = ensweep.load(tiny_bundle)
    found = ensemble.evaluate(tiny_data)
    table = found.table()
    assert list(table.index) == [*ensemble.tasks, "overall"]
    assert table["score"].to_list() == [*found.scores.values(), found.overall]
    assert table["rows"].to_list() == [32, 32, 32, 96]
    assert "Scores on dev" in repr(found)
    assert "<table" in found._repr_html_()
    shown = repr(ensemble)
    assert shown.startswith(f"Ensemble of {len(ensemble.bundle.contents.members)} members on ")
    for word in ("sentiment", "0, 1, 2, 3, 4", "0 to 5", "accuracy", "held_out"):
        assert word in shown
        assert word in ensemble._repr_html_()


def test_a_sweep_has_a_leaderboard_an_ensemble_and_a_bundle(
    tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensweep.api.find_sweep", SweepFolder)  # it has no sweep file
    sweep = ensweep.Sweep("tiny", tiny_runs)
    board = sweep.leaderboard()
    assert board["rank"].to_list() == [1, 2]
    assert board["overall"].is_monotonic_decreasing
    assert {"trial", "outcome", "dev/sentiment/accuracy", "model.shared_fcn"} <= set(board.columns)
    assert "Sweep tiny: 2 trials" in repr(sweep)
    assert "dev/paraphrase/accuracy" in sweep._repr_html_()
    choice = sweep.ensemble(method="simple")
    assert set(choice.members()["trial"]) == {"0001-baseline", "0002-b3"}
    assert choice.members().groupby("task")["weight"].sum().to_list() == pytest.approx([1, 1, 1])
    scores = choice.scores()
    assert list(scores.index) == ["sentiment", "paraphrase", "similarity", "overall"]
    assert (scores["low"] <= scores["gain"]).all()
    assert choice.verdict in repr(choice)
    assert "best single" in choice._repr_html_()
    monkeypatch.setattr("ensemble.export.write.choose_ensemble", None)  # the logged one is used
    bundle = choice.export(tmp_path / "bundle")
    assert len(bundle.bundle.contents.members) == 2


def test_html_is_escaped() -> None:
    table = pd.DataFrame({"label": ["<script>alert(1)</script>"]})
    shown = as_html("<b>sweep</b>", table)
    assert "<script>" not in shown
    assert "<b>" not in shown


def test_a_missing_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ensweep.NothingUsableError, match="no sweep 'none' in"):
        ensweep.Sweep("none", tmp_path)


def test_settings_and_options_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps: list[Any] = []

    def run(sweep: SweepConfig, name: str, storage: Path, tracking: Any) -> SweepResult:
        sweeps.append(sweep)
        SweepFolder(storage, name).create(sweep)
        return SweepResult(name, storage / name, (), (), (), Usage(), ("Ctrl-C", 130))

    monkeypatch.setattr("search.driver.sweep.run_sweep", run)
    settings = {"train.num_epochs": 1, "optim.lr": 2e-5, "model.pooling": "mean"}
    given = {"name": "mine", "storage": tmp_path, "num_samples": 3, "max_hours": 0.5}
    sweep = ensweep.sweep("demo", tmp_path / "data", settings=settings, **given)
    assert (sweep.name, sweep.result and sweep.result.stop) == ("mine", ("Ctrl-C", 130))
    (resolved,) = sweeps
    base = resolved.base().settings
    assert {key: base[key] for key in settings} == settings
    assert base["data.dir"] == str(tmp_path / "data")
    assert (resolved.search.num_samples, resolved.budget.max_hours) == (3, 0.5)
    assert "no trial is tracked yet" in repr(sweep)
    monkeypatch.setattr(
        "search.driver.sweep.resume_sweep",
        lambda *given, **more: SweepResult("mine", tmp_path, (), (), (), Usage()),
    )
    with pytest.raises(ensweep.NothingUsableError, match="no trial of sweep mine has finished"):
        sweep.resume()


def test_every_package_is_typed() -> None:
    for name in ("ensweep", "search", "ensemble", "trainable", "mlflow_setup"):
        assert (Path(ensweep.__file__).parents[1] / name / "py.typed").is_file()


def test_the_version() -> None:
    assert ensweep.__version__ == metadata.version("ensweep")
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        ensweep.save


def test_dir_lists_names_that_are_imported_lazily() -> None:
    assert {"sweep", "load", "Sweep", "ConfigError"} <= set(dir(ensweep))
    assert all(hasattr(ensweep, name) for name in dir(ensweep))


def test_the_import_is_light(tmp_path: Path) -> None:
    code = "import sys, ensweep\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    modules = set(run(code, tmp_path).split())
    assert modules & {"torch", "pandas", "numpy", "ensemble", "trainable", "mlflow"} == set()


def test_a_tampered_bundle_is_refused_before_anything_is_loaded(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (path,) = list((folder / "members").rglob("*.safetensors"))[:1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"changed since it was written: members/.*safetens"):
        ensweep.load(folder)
    code = (
        "import sys, ensweep\n"
        "try:\n    ensweep.load('bundle')\n"
        "except ValueError as error:\n    print(error.exit_code)\n"
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    assert run(code, tmp_path).split("\n")[:2] == ["6", "[]"]


def test_a_bundle_contains_no_paths_of_this_machine(
    tiny_bundle: Path, tiny_runs: Path, tiny_encoder: Path, tiny_data: Path
) -> None:
    for path in tiny_bundle.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for place in (tiny_runs, tiny_encoder, tiny_data):
            assert str(place).encode() not in content, path
