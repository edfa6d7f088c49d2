"""`ensweep data`: its output and exit codes."""

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import DataError

RUNNER = CliRunner()


def test_sample_then_check(tmp_path: Path) -> None:
    assert RUNNER.invoke(app, ["data", "sample", str(tmp_path / "s")]).exit_code == 0
    shown = RUNNER.invoke(app, ["data", "check", str(tmp_path / "s")])
    assert shown.exit_code == 0
    assert "train 600" in shown.stdout
    assert "no errors" in shown.stdout


def test_a_sample_has_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    sizes = ["--train-rows", "7", "--dev-rows", "3"]
    assert RUNNER.invoke(app, ["data", "sample", str(tmp_path / "s"), *sizes]).exit_code == 0
    shown = RUNNER.invoke(app, ["data", "check", str(tmp_path / "s"), "--json"])
    rows = json.loads(shown.stdout)["rows"]
    assert rows["sentiment"] == {"train": 7, "dev": 3, "test": 60}
    assert rows["similarity"] == {"train": 7, "dev": 3, "test": 60}


def test_errors_are_listed_with_a_fix_and_exit_3(tiny_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    path = data / "ids-sst-train.csv"
    path.write_text(path.read_text() + "9\tx\ta \x1b[31mfilm\t7\n")
    shown = RUNNER.invoke(app, ["data", "check", str(data)])
    assert shown.exit_code == 3
    assert "error[D08] ids-sst-train.csv:50: column sentiment is '7'" in shown.stdout
    assert "fix: correct the label" in shown.stdout
    assert "\x1b[31m" not in shown.stdout
    listed = json.loads(RUNNER.invoke(app, ["data", "check", str(data), "--json"]).stdout)
    assert [d["line"] for d in listed["defects"] if d["severity"] == "error"] == [50]
    only = RUNNER.invoke(app, ["data", "check", str(data), "--tasks", "paraphrase"])
    assert only.exit_code == 0


def test_a_file_or_a_missing_folder_in_place_of_data_is_reported(tmp_path: Path) -> None:
    (tmp_path / "my reviews.csv").write_text("text,label\n")
    for name, what in (("my reviews.csv", "is a file"), ("data", "there is no such folder")):
        result = RUNNER.invoke(app, ["data", "check", str(tmp_path / name)])
        assert isinstance(result.exception, DataError)
        assert what in result.exception.problem
        if "file" in what:
            fix = f"import it: ensweep data import '{tmp_path / name}' --output data"
            assert str(result.exception.fix).startswith(fix)
